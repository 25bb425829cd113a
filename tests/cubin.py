"""Read what a kernel uses from the machine code (ELF) that NVRTC makes, without a GPU or a tool of CUDA."""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: Attributes of the section .nv.info: registers and bytes of stack of a function.
_REGISTERS, _STACK = 0x2F, 0x11
#: Format of an attribute that is followed by its number of bytes; the others have 2 bytes.
_SIZED = 4


@dataclass(frozen=True)
class Use:
    """Registers and bytes of local memory of a thread, and bytes of shared memory of a block."""

    registers: int
    stack_bytes: int
    shared_bytes: int


def read_use(code: bytes) -> dict[str, Use]:
    """Return the use of each kernel in ``code``, by name."""
    sections = _sections(code)
    symbols, names = sections[".symtab"], sections[".strtab"]
    by_attribute: dict[int, dict[str, int]] = {_REGISTERS: {}, _STACK: {}}
    info, at = sections[".nv.info"], 0
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == _SIZED:
            if attribute in by_attribute:
                symbol, number = struct.unpack_from("<II", info, at)
                by_attribute[attribute][_text(names, struct.unpack_from("<I", symbols, 24 * symbol)[0])] = number
            at += value
    kernels = [name.removeprefix(".text.") for name in sections if name.startswith(".text.")]
    return {name: Use(by_attribute[_REGISTERS][name], by_attribute[_STACK].get(name, 0),
                      len(sections.get(f".nv.shared.{name}", b""))) for name in kernels}


def _sections(code: bytes) -> dict[str, bytes]:
    """Return the sections of an ELF file of 64 bits; sections without content, such as memory, as zeros."""
    first, = struct.unpack_from("<Q", code, 40)
    size, count, of_names = struct.unpack_from("<HHH", code, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", code, first + size * i) for i in range(count)]
    names = code[headers[of_names][4]:headers[of_names][4] + headers[of_names][5]]
    nothing = 8  # SHT_NOBITS
    return {_text(names, header[0]): bytes(header[5]) if header[1] == nothing else code[header[4]:header[4] + header[5]]
            for header in headers}


def _text(names: bytes, at: int) -> str:
    return names[at:names.index(b"\0", at)].decode()
