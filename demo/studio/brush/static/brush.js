/* Painting a mask over a picture: a Streamlit component.

   The page gives {picture, width, height, start, number, label, words}. `start` is the mask to begin with, black and white; it is
   taken when `number` is another one than before, so that what is painted is not undone when the page runs again. After each stroke
   the page gets painted = {number, mask}, the mask as a PNG of width x height. */

const COLOUR = "rgb(255, 0, 160)"; // of what is painted; seldom in photos
const TALLEST = 560; // pixels on the screen, so that the tools stay in view
const UNDOS = 30;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const brushes = new WeakMap(); // the canvas -> its brush

/* Streamlit calls this again whenever the page has run. */
export default function ({ data, parentElement, setStateValue }) {
  const canvas = parentElement.querySelector("#mask");
  if (!brushes.has(canvas)) brushes.set(canvas, new Brush(parentElement, canvas));
  const brush = brushes.get(canvas);
  brush.tell = (painted) => setStateValue("painted", painted);
  brush.take(data);
}

class Brush {
  constructor(root, canvas) {
    this.find = (id) => root.querySelector(`#${id}`);
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.slider = root.querySelector("#size input");
    this.ring = this.find("ring");
    this.number = null; // of the mask that was begun with
    this.erasing = false;
    this.stroke = null; // {pointer, erases, last} while something paints
    this.spot = null; // where the keyboard's brush is, in pixels of the mask
    this.before = []; // masks to go back to, the last one last
    this.find("paint").onclick = () => this.choose(false);
    this.find("erase").onclick = () => this.choose(true);
    this.find("undo").onclick = () => this.undo();
    this.find("clear").onclick = () => this.change(() => 0);
    this.find("invert").onclick = () => this.change((share) => 255 - share);
    this.listen_to_pointers();
    this.listen_to_keys();
    new ResizeObserver(() => this.lay_out()).observe(root.querySelector(".brush"));
  }

  /* What the page gives. */
  take({ picture, width, height, start, number, label, words }) {
    for (const name of ["paint", "erase", "undo", "clear", "invert", "help"]) this.find(name).textContent = words[name];
    this.find("size").firstChild.textContent = words.size;
    this.find("tools").setAttribute("aria-label", label);
    this.canvas.setAttribute("aria-label", label);
    if (this.find("picture").src !== picture) this.find("picture").src = picture;
    if (this.number === number) return;
    if (this.number === null) this.slider.value = Math.round(Math.min(width, height, 400) / 8);
    [this.number, this.spot, this.stroke] = [number, null, null];
    this.before.length = 0;
    this.find("undo").disabled = true;
    [this.canvas.width, this.canvas.height] = [width, height]; // which empties it
    this.lay_out();
    if (start) this.begin(start, number);
  }

  async begin(start, number) {
    const image = new Image();
    image.src = start;
    await image.decode();
    const copy = document.createElement("canvas").getContext("2d");
    [copy.canvas.width, copy.canvas.height] = [this.canvas.width, this.canvas.height];
    copy.drawImage(image, 0, 0, copy.canvas.width, copy.canvas.height);
    const pixels = copy.getImageData(0, 0, copy.canvas.width, copy.canvas.height).data;
    const untouched = !this.before.length && !this.stroke;
    if (this.number === number && untouched) this.show(every_fourth(pixels, 0));
  }

  lay_out() {
    const [{ width, height }, most] = [this.canvas, this.find("tools").clientWidth];
    if (this.number === null || !most) return;
    const shown = Math.min(most, (TALLEST * width) / height, Math.max(400, 2 * width));
    this.find("board").style.width = `${Math.floor(shown)}px`;
    this.find("board").style.height = `${Math.floor((shown * height) / width)}px`;
  }

  choose(erases) {
    this.erasing = erases;
    this.find("paint").setAttribute("aria-pressed", String(!erases));
    this.find("erase").setAttribute("aria-pressed", String(erases));
  }

  // -- the mask ---------------------------------------------------------------------------------------------------

  /* How much of each pixel is painted, 0 ... 255. */
  painted() {
    return every_fourth(this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height).data, 3);
  }

  show(shares) {
    this.pen.globalCompositeOperation = "source-over";
    this.pen.fillStyle = COLOUR;
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    const content = this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
    shares.forEach((share, i) => (content.data[4 * i + 3] = share));
    this.pen.putImageData(content, 0, 0);
  }

  remember() {
    this.before.push(this.painted());
    if (this.before.length > UNDOS) this.before.shift();
    this.find("undo").disabled = false;
  }

  undo() {
    if (!this.before.length || this.stroke) return;
    this.show(this.before.pop());
    this.find("undo").disabled = !this.before.length;
    this.send();
  }

  change(share_of) {
    if (this.stroke) return;
    this.remember();
    this.show(this.painted().map(share_of));
    this.send();
  }

  /* White on black, to the page. */
  send() {
    const ink = document.createElement("canvas").getContext("2d");
    [ink.canvas.width, ink.canvas.height] = [this.canvas.width, this.canvas.height];
    const fill = (how, colour) => {
      [ink.globalCompositeOperation, ink.fillStyle] = [how, colour];
      ink.fillRect(0, 0, ink.canvas.width, ink.canvas.height);
    };
    ink.drawImage(this.canvas, 0, 0);
    fill("source-in", "white");
    fill("destination-over", "black");
    this.tell({ number: this.number, mask: ink.canvas.toDataURL("image/png") });
  }

  // -- strokes ----------------------------------------------------------------------------------------------------

  /* Pixels on the screen per pixel of the mask. */
  get scale() {
    return this.canvas.clientWidth / this.canvas.width || 1;
  }

  /* The pixel of the mask. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / this.scale, (event.clientY - box.top) / this.scale];
  }

  line(from, to, erases) {
    this.pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
    this.pen.strokeStyle = COLOUR;
    this.pen.lineWidth = this.slider.value / this.scale;
    [this.pen.lineCap, this.pen.lineJoin] = ["round", "round"];
    this.pen.beginPath();
    this.pen.moveTo(...from);
    this.pen.lineTo(to[0], to[1] + 0.01); // a line of no length would draw nothing
    this.pen.stroke();
  }

  start(at, pointer, erases) {
    this.remember();
    this.stroke = { pointer, erases, last: at };
    this.line(at, at, erases);
  }

  move(at) {
    this.line(this.stroke.last, at, this.stroke.erases);
    this.stroke.last = at;
  }

  end(pointer) {
    if (!this.is_painting(pointer)) return;
    this.stroke = null;
    this.send();
  }

  is_painting(pointer) {
    return this.stroke !== null && this.stroke.pointer === pointer;
  }

  listen_to_pointers() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      const rubber = event.button === 5; // the other end of a pen
      if (this.stroke || (event.button > 0 && !rubber)) return; // a second finger, another button
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.spot = this.place(event);
      this.start(this.spot, event.pointerId, this.erasing || rubber);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.is_painting(event.pointerId)) {
        const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
        for (const one of all.length ? all : [event]) this.move(this.place(one));
      }
      if (!this.stroke || this.is_painting(event.pointerId)) this.show_ring(this.place(event));
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"])
      canvas.addEventListener(kind, (event) => this.end(event.pointerId));
    canvas.addEventListener("pointerleave", () => (this.ring.hidden = !canvas.matches(":focus-visible")));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  listen_to_keys() {
    this.canvas.addEventListener("keydown", (event) => {
      this.spot = this.spot || [this.canvas.width / 2, this.canvas.height / 2];
      if (!this.press(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.show_ring(this.spot);
    });
    this.canvas.addEventListener("keyup", (event) => event.key === " " && this.end("keyboard"));
    this.canvas.addEventListener("focus", () => this.spot && this.show_ring(this.spot));
    this.canvas.addEventListener("blur", () => {
      this.ring.hidden = true;
      this.end("keyboard");
    });
  }

  /* Whether the key is one of the brush. */
  press({ key, shiftKey, ctrlKey, metaKey, altKey }) {
    const command = ctrlKey || metaKey;
    if (command && key === "z") this.undo();
    else if (command || altKey) return false;
    else if (ARROWS[key]) {
      const step = shiftKey ? 1 : Math.max(1, this.slider.value / this.scale / 3);
      const ends = [this.canvas.width, this.canvas.height];
      this.spot = this.spot.map((at, i) => Math.min(ends[i], Math.max(0, at + step * ARROWS[key][i])));
      if (this.is_painting("keyboard")) this.move(this.spot);
    } else if (key === " ") {
      if (!this.stroke) this.start(this.spot, "keyboard", this.erasing);
    } else if (key === "[") this.slider.value = Math.floor(this.slider.value * 0.8);
    else if (key === "]") this.slider.value = Math.ceil(this.slider.value * 1.25);
    else if (key === "e") this.choose(!this.erasing);
    else return false;
    return true;
  }

  /* A ring of the brush's size around a place of the mask. */
  show_ring([x, y]) {
    const [size, scale] = [Number(this.slider.value), this.scale];
    this.ring.hidden = false;
    this.ring.style.width = this.ring.style.height = `${size}px`;
    this.ring.style.left = `${x * scale - size / 2}px`;
    this.ring.style.top = `${y * scale - size / 2}px`;
  }
}

function every_fourth(values, first) {
  const found = new Uint8ClampedArray(values.length / 4);
  for (let i = 0; i < found.length; i++) found[i] = values[4 * i + first];
  return found;
}
