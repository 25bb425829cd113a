"use strict";
// Shows the atoms of one record in 3D, and slices of its reconstruction through the depth.
const FOUND_COLOURS = [
  { name: "found", colour: "#0072B2", size: 1 },
  { name: "missing", colour: "#D55E00", size: 1.35 },
  { name: "false positive", colour: "#F0E442", size: 1.2 },
  { name: "traced", colour: "#0072B2", size: 1 }, // records without a truth
];
const NO_COLOUR = "#BBBBBB";
const CIVIDIS = ["#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838"];
const RADIUS_A = 0.55, ZOOM = [0.3, 20];

function bytesOf(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
function sprite(colour, diameter) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.max(2, Math.ceil(diameter) + 2);
  const pen = canvas.getContext("2d");
  const c = canvas.width / 2, r = diameter / 2;
  const shade = pen.createRadialGradient(c - r / 3, c - r / 3, r / 8, c, c, r);
  shade.addColorStop(0, "#ffffff");
  shade.addColorStop(0.35, colour);
  shade.addColorStop(1, colour);
  pen.fillStyle = shade;
  pen.strokeStyle = "rgba(0,0,0,0.55)";
  pen.lineWidth = Math.max(0.4, diameter / 16);
  pen.beginPath();
  pen.arc(c, c, Math.max(0.5, r - pen.lineWidth / 2), 0, 2 * Math.PI);
  pen.fill();
  pen.stroke();
  return canvas;
}
// Fit the pixels of a canvas to its place on the screen; return its pen and its size in CSS pixels.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(50, canvas.clientWidth), height = Math.max(50, canvas.clientHeight);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { pen, width, height, ratio };
}
function drawScaleBar(pen, width, height, scale, colour) {
  const length = [1, 2, 5, 10, 20, 50, 100].filter((value) => value * scale < width / 4).pop() || 1;
  pen.font = "13px sans-serif";
  pen.fillStyle = colour;
  pen.fillRect(width - 20 - length * scale, height - 24, length * scale, 4);
  pen.textAlign = "right";
  pen.fillText(length >= 10 ? `${length / 10} nm` : `${length} Å`, width - 20, height - 32);
  pen.textAlign = "left";
}

// ---- atoms of one record and their colours
class Atoms {
  constructor(run) {
    this.run = run;
    this.positions = Float32Array.from(new Int16Array(bytesOf(run.positions).buffer), (value) => value / 100);
    this.n = this.positions.length / 3;
    this.kinds = bytesOf(run.kinds);
    this.species = bytesOf(run.species);
    this.errors = new Uint16Array(bytesOf(run.errors).buffer);
    this.sigmas = new Uint16Array(bytesOf(run.sigmas).buffer);
    this.extent = 1;
    for (let i = 0; i < this.n; i++) this.extent = Math.max(this.extent, Math.hypot(...this.positions.subarray(3 * i, 3 * i + 3)));
  }
  has(mode) {
    if (mode === "error" || mode === "sigma") return this.values(mode).some((value) => value !== data.view.noValue);
    return true;
  }
  values(mode) {
    return mode === "error" ? this.errors : this.sigmas;
  }
  // Set the palette and the place of each atom in it.
  paint(mode) {
    this.mode = mode;
    if (mode === "kind") {
      this.palette = FOUND_COLOURS.map((kind) => kind.colour);
      this.places = this.kinds;
    } else if (mode === "species") {
      this.palette = this.run.speciesColours;
      this.places = this.species;
    } else {
      const values = this.values(mode), last = CIVIDIS.length - 1;
      const known = [...values].filter((value) => value !== data.view.noValue).sort((a, b) => a - b);
      this.range = [0.02, 0.98].map((share) => known[Math.round(share * (known.length - 1))] ?? 0);
      const [low, high] = this.range;
      this.palette = [...CIVIDIS, NO_COLOUR];
      this.places = Uint8Array.from(values, (value) => (value === data.view.noValue ? last + 1
        : Math.min(last, Math.max(0, Math.round((last * (value - low)) / Math.max(high - low, 1))))));
    }
  }
}

// ---- the view in three dimensions
class AtomView {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.reset();
    this.listen();
  }
  reset() {
    // y points up, rotated a little about it
    const turn = -0.6, tip = 0.3;
    const [c, s, d, t] = [Math.cos(turn), Math.sin(turn), Math.cos(tip), Math.sin(tip)];
    this.matrix = [c, 0, s, t * s, d, -t * c, -d * s, t, d * c];
    this.zoom = 1;
  }
  rotate(dx, dy) {
    const [c, s, d, t] = [Math.cos(dx), Math.sin(dx), Math.cos(dy), Math.sin(dy)];
    const turn = [c, 0, s, t * s, d, -t * c, -d * s, t, d * c];
    const m = this.matrix, out = new Array(9);
    for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) {
      out[3 * i + j] = turn[3 * i] * m[j] + turn[3 * i + 1] * m[3 + j] + turn[3 * i + 2] * m[6 + j];
    }
    this.matrix = out;
  }
  magnify(factor) {
    this.zoom = Math.min(ZOOM[1], Math.max(ZOOM[0], this.zoom * factor));
  }
  listen() {
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      last = event;
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.rotate((event.clientX - last.clientX) * 0.008, (event.clientY - last.clientY) * 0.008);
      last = event;
      this.changed();
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => { last = null; });
    this.canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== this.canvas) return; // the page scrolls until the view is chosen
      event.preventDefault();
      this.magnify(Math.exp(-event.deltaY * 0.0015));
      this.changed();
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
      if (turns[event.key]) this.rotate(...turns[event.key]);
      else if (event.key === "+" || event.key === "=") this.magnify(1.15);
      else if (event.key === "-") this.magnify(1 / 1.15);
      else if (event.key === "Home") this.reset();
      else return;
      event.preventDefault();
      this.changed();
    });
  }
  onScreen(x, y, z) {
    const m = this.matrix;
    return [m[0] * x + m[1] * y + m[2] * z, m[3] * x + m[4] * y + m[5] * z, m[6] * x + m[7] * y + m[8] * z];
  }
  draw(atoms, shown, frame) {
    const { pen, width, height, ratio } = prepare(this.canvas);
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, width, height);
    const corner = frame ? [frame.xA, frame.yA].map((ends) => Math.max(-ends[0], ends[1])) : [0];
    const reach = Math.max(atoms.extent, 0.9 * Math.hypot(...corner));
    const scale = (this.zoom * Math.min(width, height)) / (2.1 * reach);
    const { n, positions: p, kinds, palette, places } = atoms;
    const place = Array.from({ length: n }, (_, i) => this.onScreen(p[3 * i], p[3 * i + 1], p[3 * i + 2]));
    const order = Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => place[a][2] - place[b][2]);
    const diameter = Math.max(2, 2 * RADIUS_A * scale);
    const sprites = FOUND_COLOURS.map((kind) => palette.map((colour) => sprite(colour, diameter * kind.size * ratio)));
    let drawn = 0;
    for (const i of order) {
      if (!shown[kinds[i]]) continue;
      const picture = sprites[kinds[i]][places[i]], size = picture.width / ratio;
      pen.globalAlpha = 0.35 + 0.65 * Math.min(1, Math.max(0, (place[i][2] + atoms.extent) / (1.6 * atoms.extent)));
      pen.drawImage(picture, width / 2 + scale * place[i][0] - size / 2, height / 2 - scale * place[i][1] - size / 2, size, size);
      drawn++;
    }
    pen.globalAlpha = 1;
    if (frame) this.drawFrame(pen, width, height, scale, frame);
    this.drawAxes(pen, height);
    drawScaleBar(pen, width, height, scale, "#333333");
    this.canvas.dataset.drawn = String(drawn);
  }
  drawFrame(pen, width, height, scale, { xA, yA, z }) {
    const corners = [[xA[0], yA[0]], [xA[1], yA[0]], [xA[1], yA[1]], [xA[0], yA[1]]];
    pen.strokeStyle = "#555555";
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (const [x, y] of corners) {
      const place = this.onScreen(x, y, z);
      pen.lineTo(width / 2 + scale * place[0], height / 2 - scale * place[1]);
    }
    pen.closePath();
    pen.stroke();
  }
  drawAxes(pen, height) {
    const x0 = 48, y0 = height - 48;
    pen.font = "13px sans-serif";
    pen.fillStyle = pen.strokeStyle = "#333333";
    pen.lineWidth = 1.5;
    ["x", "y", "z"].forEach((name, i) => {
      const [dx, dy] = this.onScreen(Number(i === 0), Number(i === 1), Number(i === 2));
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.lineTo(x0 + 30 * dx, y0 - 30 * dy);
      pen.stroke();
      pen.fillText(name, x0 + 40 * dx - 4, y0 - 40 * dy + 4);
    });
  }
}

// ---- slices through the depth
class SliceView {
  constructor(canvas, slider, place, changed) {
    Object.assign(this, { canvas, slider, place, changed });
    slider.addEventListener("input", changed);
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement === canvas) this.step(event, Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 };
      if (steps[event.key]) this.step(event, steps[event.key]);
    });
  }
  step(event, by) {
    event.preventDefault();
    this.slider.value = String(Number(this.slider.value) + by);
    this.changed();
  }
  load(slices) {
    this.slices = slices;
    this.canvas.parentElement.hidden = !slices;
    if (!slices) return;
    this.slider.max = String(slices.n - 1);
    this.slider.value = String(Math.floor(slices.n / 2));
    this.picture = new Image();
    this.picture.addEventListener("load", this.changed);
    this.picture.src = slices.picture;
  }
  get z() {
    return this.slices.firstA + Number(this.slider.value) * this.slices.stepA;
  }
  get frame() {
    return this.slices && { xA: this.slices.xA, yA: this.slices.yA, z: this.z };
  }
  draw(atoms, shown) {
    if (!this.slices) return;
    const { xA, yA, columns, width: w, height: h, stepA, highV, n } = this.slices;
    const { pen, width, height } = prepare(this.canvas);
    const index = Number(this.slider.value), z = this.z;
    pen.fillStyle = "#000000";
    pen.fillRect(0, 0, width, height);
    const scale = Math.min(width / (xA[1] - xA[0]), height / (yA[1] - yA[0]));
    const left = (width - scale * (xA[1] - xA[0])) / 2, top = (height - scale * (yA[1] - yA[0])) / 2;
    if (this.picture.complete && this.picture.naturalWidth) {
      pen.imageSmoothingEnabled = false;
      pen.drawImage(this.picture, (index % columns) * w, Math.floor(index / columns) * h, w, h,
        left, top, scale * (xA[1] - xA[0]), scale * (yA[1] - yA[0]));
    }
    const p = atoms.positions;
    let drawn = 0;
    for (let i = 0; i < atoms.n; i++) {
      if (!shown[atoms.kinds[i]] || Math.abs(p[3 * i + 2] - z) > stepA / 2) continue;
      pen.strokeStyle = "#ffffff";
      pen.fillStyle = atoms.palette[atoms.places[i]];
      pen.lineWidth = 1;
      pen.beginPath();
      pen.arc(left + scale * (p[3 * i] - xA[0]), top + scale * (yA[1] - p[3 * i + 1]), Math.max(2.5, 0.3 * scale), 0, 2 * Math.PI);
      pen.fill();
      pen.stroke();
      drawn++;
    }
    drawScaleBar(pen, width, height, scale, "#ffffff");
    pen.fillText("x →, y ↑", 12, height - 14);
    const depth = z.toFixed(1).replace("-", "−");
    this.place.textContent = `z = ${depth} Å (${index + 1} of ${n}), 0 to ${highV} V`;
    this.canvas.dataset.drawn = String(drawn);
  }
}

// ---- both together
const canvas = document.getElementById("view");
if (canvas && data.view.runs.length) {
  const chooser = document.getElementById("view-run"), mode = document.getElementById("view-colour");
  const boxes = FOUND_COLOURS.map((_, i) => document.getElementById(`show-${i}`));
  const loaded = new Map();
  let atoms = null, pending = false;
  const draw = () => {
    const shown = boxes.map((box) => box.checked);
    view.draw(atoms, shown, slice.frame);
    slice.draw(atoms, shown);
  };
  const soon = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; draw(); });
  };
  const view = new AtomView(canvas, soon);
  const slice = new SliceView(document.getElementById("slice"), document.getElementById("slice-depth"),
    document.getElementById("slice-place"), soon);
  const entry = (colour, text) => {
    const item = document.createElement("span"), key = document.createElement("span");
    key.className = "key";
    key.style.background = colour;
    item.append(key, text);
    return item;
  };
  const scaleEntry = () => {
    const item = document.createElement("span"), key = document.createElement("span");
    const [low, high] = atoms.range.map((value) => (value * data.view.unitPm).toFixed(1));
    key.className = "ramp";
    key.style.background = `linear-gradient(to right, ${CIVIDIS.join(", ")})`;
    item.append(`${mode.selectedOptions[0].text} ${low} `, key, ` ${high} pm`);
    return item;
  };
  const describe = () => {
    const run = atoms.run, entries = [];
    if (mode.value === "species") run.speciesNames.forEach((name, i) => entries.push(entry(run.speciesColours[i], name)));
    else if (mode.value === "kind") {
      FOUND_COLOURS.forEach((kind, i) => {
        const name = kind.name === "traced" ? run.source : kind.name;
        if (run.counts[i] !== null) entries.push(entry(kind.colour, `${name}: ${run.counts[i]}`));
      });
    } else entries.push(scaleEntry(), entry(NO_COLOUR, "without"));
    entries.push(`${run.source} positions${run.note ? `; ${run.note}` : ""}`);
    document.getElementById("view-legend").replaceChildren(...entries);
  };
  const paint = () => {
    mode.options[0].text = atoms.run.counts[0] === null ? "one colour" : "found, missing, false";
    for (const option of mode.options) option.hidden = option.disabled = !atoms.has(option.value);
    if (mode.selectedOptions[0].hidden) mode.value = "kind";
    atoms.paint(mode.value);
    describe();
    draw();
  };
  const show = () => {
    const run = data.view.runs[chooser.selectedIndex];
    if (!loaded.has(run)) loaded.set(run, new Atoms(run));
    atoms = loaded.get(run);
    boxes.forEach((box, i) => { box.closest("label").hidden = run.counts[i] === null; });
    slice.load(run.slices);
    paint();
  };
  chooser.addEventListener("change", show);
  mode.addEventListener("change", paint);
  for (const box of boxes) box.addEventListener("change", draw);
  document.getElementById("view-reset").addEventListener("click", () => { view.reset(); draw(); });
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      chooser.value = button.dataset.view;
      show();
      document.getElementById("atoms").scrollIntoView();
      canvas.focus({ preventScroll: true });
    });
  }
  addEventListener("resize", soon);
  addEventListener("beforeprint", draw);
  show();
}
document.documentElement.dataset.ready = "yes";
