"""Files of images as other programs write them, for the tests of the readers."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import h5py
import mrcfile
import mrcfile.dtypes
import numpy as np

SHAPE_XY = (7, 9)


def chiral_images(n: int = 3) -> np.ndarray:
    """Images (n, X, Y) of the letter F, upright with x to the right and y up, a number in its corner."""
    images = np.zeros((n, *SHAPE_XY))
    images[:, 2, 1:8] = 100       # the stem: one x, many y
    images[:, 2:6, 7] = 100       # the long arm: at the top
    images[:, 2:5, 4] = 100       # the short arm: at half height
    images[:, 6, 0] = np.arange(1, n + 1)  # lower right corner
    return images


def rows_up(images: np.ndarray) -> np.ndarray:
    """Images (n, X, Y) as rows and columns, the lowest row first."""
    return np.ascontiguousarray(images.transpose(0, 2, 1))


def rows_down(images: np.ndarray) -> np.ndarray:
    """Images (n, X, Y) as rows and columns, the highest row first."""
    return np.ascontiguousarray(rows_up(images)[:, ::-1])


def write_mrc(path: Path, images: np.ndarray, dtype: str = "i2", pixel_A: tuple[float, float] = (0.5, 0.5)) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(rows_up(images).astype(dtype))
        file.set_image_stack()
        file.voxel_size = (*pixel_A, 1.0)


def with_extended_header(raw: bytes, kind: bytes, extended: bytes, sizes: tuple[int, int] = (0, 0)) -> bytes:
    """An MRC file without extended header, with one put in."""
    header = bytearray(raw[:1024])
    header[92:96] = struct.pack("<i", len(extended))
    header[104:108] = kind.ljust(4)
    header[128:132] = struct.pack("<2h", *sizes)
    return bytes(header) + extended + raw[1024:]


def fei_header(kind: bytes, n: int, **items: list[float]) -> bytes:
    """FEI1 or FEI2 headers of n images with the items of mrcfile's names, and their bits in the first mask."""
    bits = {"HT": 5, "Dose": 6, "Alpha tilt": 7, "Tilt axis angle": 12, "Pixel size X": 14, "Pixel size Y": 15,
            "Defocus": 22, "Instrument mode": 25}
    dtype = mrcfile.dtypes.get_ext_header_dtype(kind)
    table = np.zeros(n, dtype)
    table["Metadata size"] = dtype.itemsize
    for name, values in items.items():
        table[name.replace("_", " ")] = values
        table["Bitmask 1"] |= 1 << bits[name.replace("_", " ")]
    return table.tobytes()


def write_berkeley(path: Path, images: np.ndarray, pixel_A: float = 0.5) -> None:
    stack = rows_up(images)
    with h5py.File(path, "w") as file:
        group = file.create_group("data/series")
        group.attrs["emd_group_type"] = 1
        group["data"] = stack.astype("u2")
        for k, (name, unit, step) in enumerate((("image", "", 1.0), ("y", "[n_m]", pixel_A / 10),
                                                ("x", "[n_m]", pixel_A / 10)), 1):
            group[f"dim{k}"] = np.arange(stack.shape[k - 1]) * step
            group[f"dim{k}"].attrs["name"], group[f"dim{k}"].attrs["units"] = name, unit


def write_tomviz(path: Path, images: np.ndarray, angles_deg: list[float]) -> None:
    """Berkeley's file as tomviz writes a tilt series: axes x, y and angles."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data/tomography")
        group.attrs["emd_group_type"] = 1
        group["data"] = np.ascontiguousarray(images.transpose(1, 2, 0)).astype("f4")
        for k, (name, unit, values) in enumerate((("x", "[n_m]", np.arange(SHAPE_XY[0]) * 0.05),
                                                  ("y", "[n_m]", np.arange(SHAPE_XY[1]) * 0.05),
                                                  ("angles", "[deg]", angles_deg)), 1):
            group[f"dim{k}"] = np.asarray(values, float)
            group[f"dim{k}"].attrs["name"], group[f"dim{k}"].attrs["units"] = name, unit


def write_velox(path: Path, images: np.ndarray, tilts_rad: list[float], defocus_m: float = -4.5e-8) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("Data/Image/0123abcd")
        group.create_dataset("Data", data=np.ascontiguousarray(rows_down(images).transpose(1, 2, 0)).astype("i2"),
                             chunks=(SHAPE_XY[1], SHAPE_XY[0], 1))
        records = np.zeros((4000, len(images)), np.uint8)
        for k, tilt in enumerate(tilts_rad):
            text = json.dumps({"Stage": {"AlphaTilt": str(tilt)}, "BinaryResult": {
                "PixelSize": {"width": "5e-11", "height": "5e-11"}, "PixelUnitX": "m", "PixelUnitY": "m"}, "Optics": {
                "AccelerationVoltage": "300000", "Defocus": str(defocus_m), "OperatingMode": "1"}}).encode()
            records[:len(text), k] = np.frombuffer(text, np.uint8)
        group["Metadata"] = records


def write_dm(path: Path, images: np.ndarray, version: int, pixel: tuple[float, str] = (0.05, "nm")) -> None:
    """A DM3 (version 3) or DM4 (4) file: a stack of float32 whose third axis is in degrees from -3 in steps of 3."""
    long = ">i" if version == 3 else ">q"
    stack = rows_down(images).astype("<f4")

    def simple(kind: int, value: bytes) -> bytes:
        return b"%%%%" + struct.pack(long, 1) + struct.pack(long, kind) + value

    def array(kind: int, raw: bytes, count: int) -> bytes:
        return b"%%%%" + struct.pack(long, 3) + b"".join(struct.pack(long, v) for v in (20, kind, count)) + raw

    def text(words: str) -> bytes:
        return array(4, words.encode("utf-16-le"), len(words))

    def entry(name: str, content: bytes, is_group: bool) -> bytes:
        head = struct.pack(">BH", 20 if is_group else 21, len(name)) + name.encode()
        return head + (struct.pack(">q", len(content)) if version == 4 else b"") + content

    def group(items: list[tuple[str, object]]) -> bytes:
        content = b"".join(entry(name, group(value), True) if isinstance(value, list) else entry(name, value, False)
                           for name, value in items)
        return struct.pack(">BB", 1, 0) + struct.pack(long, len(items)) + content

    def axis(scale: float, origin: float, unit: str) -> list[tuple[str, object]]:
        return [("Origin", simple(6, struct.pack("<f", origin))), ("Scale", simple(6, struct.pack("<f", scale))),
                ("Units", text(unit))]

    side = axis(pixel[0], 0.0, pixel[1])
    data = [("Calibrations", [("Brightness", axis(1.0, 0.0, "")),
                              ("Dimension", [("", side), ("", side), ("", axis(3.0, 1.0, "deg"))])]),
            ("Data", array(6, stack.tobytes(), stack.size)), ("DataType", simple(5, struct.pack("<I", 2))),
            ("Dimensions", [("", simple(5, struct.pack("<I", n))) for n in stack.shape[::-1]]),
            ("PixelDepth", simple(5, struct.pack("<I", 4)))]
    tags = [("Microscope Info", [("Voltage", simple(6, struct.pack("<f", 300000.0))),
                                 ("Operation Mode", text("IMAGING"))])]
    image = [("ImageData", data), ("ImageTags", tags), ("Name", text("F")),
             ("UniqueID", [("", simple(5, struct.pack("<I", 1)))])]
    body = group([("ImageList", [("", image)])])
    raw = struct.pack(">i", version) + struct.pack(long, len(body)) + struct.pack(">i", 1) + body + bytes(8)
    path.write_bytes(raw)


def write_ser(path: Path, images: np.ndarray, pixel_m: float = 5e-11) -> None:
    """A SER file of TIA: int32 images in m, the lowest row first, each followed by its time."""
    n = len(images)
    header = struct.pack("<3H4I", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, n, n)
    dimension = struct.pack("<IddII", n, 0.0, 1.0, 0, 0) + struct.pack("<I", 0)
    offsets_at = len(header) + 8 + len(dimension)
    first = offsets_at + 8 * n
    element = 50 + 4 * SHAPE_XY[0] * SHAPE_XY[1]
    raw = header + struct.pack("<2I", offsets_at, 1) + dimension
    raw += struct.pack(f"<{n}I", *(first + k * (element + 8) for k in range(n)))
    raw += struct.pack(f"<{n}I", *(first + k * (element + 8) + element for k in range(n)))
    for k, image in enumerate(rows_up(images).astype("<i4")):
        raw += struct.pack("<ddIddIHII", 0.0, pixel_m, 0, 0.0, pixel_m, 0, 6, *SHAPE_XY) + image.tobytes()
        raw += struct.pack("<HHI", 0x4152, 0, k)
    path.write_bytes(raw)


def write_tiff(path: Path, images: np.ndarray, dtype: str = "u2", **options: object) -> None:
    import tifffile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tifffile.imwrite(path, rows_down(images).astype(dtype), photometric="minisblack", **options)
