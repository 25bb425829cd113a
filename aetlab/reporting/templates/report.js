"use strict";
// Sorts tables, shows the traced atoms in 3D, and compares two records. Uses no network and no library.
const data = JSON.parse(document.getElementById("data").textContent);

// ---- tables: a click on a heading sorts by it, a second click reverses the order
function sortKey(cell) {
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent.trim().toLowerCase();
  return value === "" ? NaN : Number(value);
}
function headings(table) {
  return table.tHead.rows[table.tHead.rows.length - 1].cells;
}
function sortTable(table, column, ascending) {
  const rows = [...table.tBodies[0].rows].map((row, index) => ({ row, index, key: sortKey(row.cells[column]) }));
  rows.sort((a, b) => {
    const missing = Number(Number.isNaN(a.key)) - Number(Number.isNaN(b.key));
    if (missing) return missing;
    const order = a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
    return (ascending ? order : -order) || a.index - b.index;
  });
  table.tBodies[0].append(...rows.map((entry) => entry.row));
  [...headings(table)].forEach((cell, i) => {
    if (i === column) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
}
document.querySelectorAll("table.sortable").forEach((table) => {
  [...headings(table)].forEach((cell, column) => {
    cell.querySelector("button").addEventListener("click", () =>
      sortTable(table, column, cell.getAttribute("aria-sort") !== "ascending"));
  });
});

// ---- traced atoms in three dimensions
const KINDS = [
  { name: "found", colour: "#0072B2", size: 1 },
  { name: "missing", colour: "#D55E00", size: 1.35 },
  { name: "false positive", colour: "#F0E442", size: 1.2 },
  { name: "traced", colour: "#0072B2", size: 1 }, // records without a truth
];
const SPECIES = ["#56B4E9", "#E69F00", "#CC79A7", "#009E73"];
const RADIUS_A = 0.55;

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Int16Array(bytes.buffer);
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
class AtomView {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.shown = KINDS.map(() => true);
    this.bySpecies = false;
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
  load(run) {
    const packed = decode(run.positions);
    this.n = packed.length / 3;
    this.positions = Float32Array.from(packed, (value) => value / 100);
    this.kinds = Uint8Array.from(atob(run.kinds), (character) => character.charCodeAt(0));
    this.species = Uint8Array.from(atob(run.species), (character) => character.charCodeAt(0));
    this.speciesNames = run.speciesNames;
    this.extent = 1;
    for (let i = 0; i < this.n; i++) {
      this.extent = Math.max(this.extent, Math.hypot(this.positions[3 * i], this.positions[3 * i + 1], this.positions[3 * i + 2]));
    }
    this.order = new Uint32Array(this.n);
    this.draw();
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
      this.soon();
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => { last = null; });
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom = Math.min(20, Math.max(0.3, this.zoom * Math.exp(-event.deltaY * 0.0015)));
      this.soon();
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
      if (turns[event.key]) this.rotate(...turns[event.key]);
      else if (event.key === "+") this.zoom *= 1.15;
      else if (event.key === "-") this.zoom /= 1.15;
      else return;
      event.preventDefault();
      this.soon();
    });
    addEventListener("resize", () => this.soon());
    addEventListener("beforeprint", () => this.draw());
  }
  soon() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.draw(); });
  }
  draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(50, this.canvas.clientWidth), height = Math.max(50, this.canvas.clientHeight);
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const pen = this.pen, m = this.matrix;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, width, height);
    const scale = this.zoom * Math.min(width, height) / (2.1 * this.extent);
    const p = this.positions, n = this.n;
    const sx = new Float32Array(n), sy = new Float32Array(n), depth = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      const x = p[3 * i], y = p[3 * i + 1], z = p[3 * i + 2];
      sx[i] = width / 2 + scale * (m[0] * x + m[1] * y + m[2] * z);
      sy[i] = height / 2 - scale * (m[3] * x + m[4] * y + m[5] * z);
      depth[i] = m[6] * x + m[7] * y + m[8] * z;
      this.order[i] = i;
    }
    this.order.sort((a, b) => depth[a] - depth[b]);
    const colours = this.bySpecies ? SPECIES : KINDS.map((kind) => kind.colour);
    const diameter = Math.max(2, 2 * RADIUS_A * scale);
    const sprites = KINDS.map((kind) => colours.map((colour) => sprite(colour, diameter * kind.size * ratio)));
    let drawn = 0;
    for (const i of this.order) {
      const kind = this.kinds[i];
      if (!this.shown[kind]) continue;
      const picture = sprites[kind][this.bySpecies ? this.species[i] % SPECIES.length : kind];
      pen.globalAlpha = 0.35 + 0.65 * Math.min(1, Math.max(0, (depth[i] + this.extent) / (1.6 * this.extent)));
      const size = picture.width / ratio;
      pen.drawImage(picture, sx[i] - size / 2, sy[i] - size / 2, size, size);
      drawn++;
    }
    pen.globalAlpha = 1;
    this.drawAxes(width, height, scale);
    this.canvas.dataset.drawn = String(drawn);
  }
  drawAxes(width, height, scale) {
    const pen = this.pen, m = this.matrix, x0 = 48, y0 = height - 48;
    pen.font = "13px sans-serif";
    pen.fillStyle = pen.strokeStyle = "#333333";
    pen.lineWidth = 1.5;
    ["x", "y", "z"].forEach((name, i) => {
      const x = x0 + 30 * m[i], y = y0 - 30 * m[3 + i];
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.lineTo(x, y);
      pen.stroke();
      pen.fillText(name, x0 + 40 * m[i] - 4, y0 - 40 * m[3 + i] + 4);
    });
    const length = [1, 2, 5, 10, 20, 50, 100].filter((value) => value * scale < width / 4).pop() || 1;
    pen.fillRect(width - 20 - length * scale, height - 24, length * scale, 4);
    pen.textAlign = "right";
    pen.fillText(length >= 10 ? `${length / 10} nm` : `${length} Å`, width - 20, height - 32);
    pen.textAlign = "left";
  }
}
const canvas = document.getElementById("view");
if (canvas && data.atoms.length) {
  const view = new AtomView(canvas);
  const chooser = document.getElementById("view-run");
  const legend = document.getElementById("view-legend");
  const describe = (run) => {
    legend.replaceChildren();
    const entries = view.bySpecies
      ? run.speciesNames.map((name, i) => [SPECIES[i % SPECIES.length], name])
      : KINDS.map((kind, i) => [kind.colour, `${kind.name}: ${run.counts[i]}`]).filter((_, i) => run.counts[i] !== null);
    for (const [colour, text] of entries) {
      const item = document.createElement("span");
      const key = document.createElement("span");
      key.className = "key";
      key.style.background = colour;
      item.append(key, text);
      legend.append(item);
    }
    if (run.note) legend.append(run.note);
  };
  const show = () => {
    const run = data.atoms[chooser.selectedIndex];
    KINDS.forEach((_, i) => {
      document.getElementById(`show-${i}`).closest("label").hidden = run.counts[i] === null;
    });
    describe(run);
    view.load(run);
  };
  chooser.addEventListener("change", show);
  KINDS.forEach((kind, i) => document.getElementById(`show-${i}`).addEventListener("change", (event) => {
    view.shown[i] = event.target.checked;
    view.draw();
  }));
  document.getElementById("view-species").addEventListener("change", (event) => {
    view.bySpecies = event.target.checked;
    show();
  });
  document.getElementById("view-reset").addEventListener("click", () => { view.reset(); view.draw(); });
  show();
}

// ---- comparison of two records
const [first, second] = ["compare-a", "compare-b"].map((id) => document.getElementById(id));
function row(cells) {
  const line = document.createElement("tr");
  for (const text of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}
function compare() {
  const [a, b] = [data.runs[first.selectedIndex], data.runs[second.selectedIndex]];
  const differing = Object.keys({ ...a.settings, ...b.settings })
    .filter((name) => JSON.stringify(a.settings[name]) !== JSON.stringify(b.settings[name]))
    .map((name) => row([name, JSON.stringify(a.settings[name]) ?? "–", JSON.stringify(b.settings[name]) ?? "–"]));
  document.getElementById("compare-settings").replaceChildren(...differing);
  document.getElementById("compare-same").hidden = differing.length > 0;
  const number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : "–");
  const results = Object.keys({ ...a.results, ...b.results }).map((name) => {
    const [left, right] = [a.results[name], b.results[name]];
    const change = typeof left === "number" && typeof right === "number" ? right - left : undefined;
    const line = row([name, number(left), number(right), change > 0 ? `+${number(change)}` : number(change)]);
    const better = data.better[name];
    if (change && better) line.lastChild.className = (change < 0) === (better === "lower") ? "better" : "worse";
    return line;
  });
  document.getElementById("compare-results").replaceChildren(...results);
}
if (first && second && data.runs.length > 1) {
  second.selectedIndex = 1;
  for (const chooser of [first, second]) chooser.addEventListener("change", compare);
  compare();
}
document.documentElement.dataset.ready = "yes";
