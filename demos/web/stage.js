// The picture on a canvas: zoom and pan, marks by brush, box and keys, the frame of a larger picture, a subject that is
// placed (`place.js`), before and after.
//
// Coordinates: "view" is CSS pixels inside the canvas element; "picture" is pixels of the preview that the server sent,
// or of the result's canvas while a subject is placed.
// view = picture * zoom + (x, y). Marks are canvases of the preview's size, opaque where something is marked.

const MARK = '#ec4899'; // what is to change; what is kept has no colour of its own, all else is chequered
const LEAST_ZOOM = 0.01, MOST_ZOOM = 16, REACH = 22; // REACH: half the size of a handle that a finger can hit
const EDGES = {
  nw: [-1, -1], n: [0, -1], ne: [1, -1], e: [1, 0], se: [1, 1], s: [0, 1], sw: [-1, 1], w: [-1, 0],
};

// One layer of marks with its own undo and redo. A step remembers only the rectangle that it changed.
class Marks {
  constructor(width, height) {
    this.canvas = document.createElement('canvas');
    this.canvas.width = width;
    this.canvas.height = height;
    this.context = this.canvas.getContext('2d', {willReadFrequently: true});
    this.done = [];
    this.undone = [];
    this.empty = true;
    this.touched = false; // by the visitor, not by the server
    this.encoded = null; // as a PNG, until it changes
  }

  all() {
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  // Change the layer by `paint(context)` as one step; `before`: the layer as it was, if it was painted on already.
  step(paint, before = this.all()) {
    paint(this.context);
    const after = this.all(), {width, height} = this.canvas;
    let left = width, top = height, right = -1, bottom = -1, empty = true;
    const a = new Uint32Array(before.data.buffer), b = new Uint32Array(after.data.buffer);
    for (let i = 0, y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (b[i] >>> 24) empty = false; // alpha is the highest byte
        if (a[i] === b[i]) continue;
        if (x < left) left = x;
        if (x > right) right = x;
        if (y < top) top = y;
        bottom = y;
      }
    }
    this.empty = empty;
    if (right < 0) return false;
    this.encoded = null;
    const size = [right - left + 1, bottom - top + 1];
    this.context.putImageData(before, 0, 0);
    const was = this.context.getImageData(left, top, ...size);
    this.context.putImageData(after, 0, 0);
    this.done = [...this.done.slice(-49), {left, top, was, is: this.context.getImageData(left, top, ...size)}];
    this.undone = [];
    this.touched = true;
    return true;
  }

  undo() { return this.move(this.done, this.undone, 'was'); }

  redo() { return this.move(this.undone, this.done, 'is'); }

  move(from, to, which) {
    const step = from.pop();
    if (!step) return false;
    to.push(step);
    this.encoded = null;
    this.context.putImageData(step[which], step.left, step.top);
    this.empty = !new Uint32Array(this.all().data.buffer).some((pixel) => pixel >>> 24);
    return true;
  }

  // What a server or a reload gives: not a step, and nothing that could be undone.
  fill(image) {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (image) this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    this.done = [];
    this.undone = [];
    this.encoded = null;
    this.empty = !image || !new Uint32Array(this.all().data.buffer).some((pixel) => pixel >>> 24);
    this.touched = false;
  }

  url() {
    if (this.empty) return null;
    this.encoded ||= this.canvas.toDataURL('image/png');
    return this.encoded;
  }
}

function chequers(context) {
  const tile = document.createElement('canvas');
  tile.width = tile.height = 24;
  const paint = tile.getContext('2d');
  paint.fillStyle = '#ebebeb';
  paint.fillRect(0, 0, 24, 24);
  paint.fillStyle = '#cccccc';
  paint.fillRect(0, 0, 12, 12);
  paint.fillRect(12, 12, 12, 12);
  return context.createPattern(tile, 'repeat');
}

// `on`: marked(end of a stroke or another step), framed(margins, whether the drag has ended), placed(whether it has ended,
// whether the size has changed), pointed(x, y).
function makeStage(view, on) {
  const canvas = view.querySelector('canvas'), context = canvas.getContext('2d');
  const pattern = chequers(context);
  const stage = {
    photo: null, before: null, width: 0, height: 0, native: [0, 0],
    marks: {}, layer: null, // 'change', 'keep', or null for tasks without marks
    frame: null, // {left, right, top, bottom} in the photograph's own pixels, or null
    placement: makePlacement(), // of the subject, where the tool is 'place'
    tool: 'brush', size: 40, comparing: false, frozen: false,
    veiled: true, // whether what is not kept is chequered
    zoom: 1, x: 0, y: 0, fitted: true,
  };
  let cursor = null, keyed = false, veil = null, asked = false;
  const pointers = new Map();
  let act = null; // what the pointers are doing

  const placing = () => stage.tool === 'place' && stage.placement.size ? stage.placement : null;
  const active = () => stage.tool === 'place' ? null : stage.marks[stage.layer] || null;
  const scale = () => stage.width / (stage.native[0] || 1); // preview pixels for one of the photograph's own
  const bounds = () => {
    if (placing()) return {left: 0, top: 0, right: placing().size[0], bottom: placing().size[1]};
    const f = stage.frame || {left: 0, right: 0, top: 0, bottom: 0}, s = scale();
    return {
      left: -f.left * s, top: -f.top * s, right: stage.width + f.right * s, bottom: stage.height + f.bottom * s,
    };
  };
  const toPicture = (point) => [(point[0] - stage.x) / stage.zoom, (point[1] - stage.y) / stage.zoom];
  const toView = (point) => [point[0] * stage.zoom + stage.x, point[1] * stage.zoom + stage.y];
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  stage.dragging = () => Boolean(act && act.kind === 'place');

  // ------------------------------------------------------------------------------------------------------- drawing

  stage.draw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; paint(); });
  };

  function paint() {
    const ratio = window.devicePixelRatio || 1, width = view.clientWidth, height = view.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      if (stage.fitted) stage.fit();
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!stage.photo) return;
    const z = ratio * stage.zoom;
    context.setTransform(z, 0, 0, z, ratio * stage.x, ratio * stage.y);
    context.imageSmoothingEnabled = stage.zoom < 4;
    context.imageSmoothingQuality = 'high';
    if (stage.frame && !stage.comparing) {
      const b = bounds();
      context.fillStyle = pattern;
      context.fillRect(b.left, b.top, b.right - b.left, b.bottom - b.top);
    }
    const placed = placing();
    if (placed) {
      pattern.setTransform(new DOMMatrix().scale(1 / stage.zoom));
      placed.paint(context, pattern, stage.comparing ? stage.before || stage.photo : placed.finished && !placed.stale && stage.photo);
      pattern.setTransform(new DOMMatrix());
    } else {
      context.drawImage(stage.comparing && stage.before || stage.photo, 0, 0, stage.width, stage.height);
    }
    if (stage.comparing) return;
    if (active() && stage.layer === 'keep' && stage.veiled) drawVeil();
    if (active() && stage.layer === 'change') {
      context.globalAlpha = 0.6;
      context.drawImage(stage.marks.change.canvas, 0, 0);
      context.globalAlpha = 1;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (placed) drawPlacement(placed);
    if (stage.frame) drawFrame();
    if (act && act.kind === 'box') outline(act.from, act.to);
    if (cursor && active() && stage.tool !== 'hand' && stage.tool !== 'box') drawRing();
  }

  // What is not kept, under chequers: the visitor sees what will be replaced.
  function drawVeil() {
    const marks = active();
    if (marks.empty) return;
    veil ||= document.createElement('canvas'); // its size, set below, clears it
    veil.width = stage.width;
    veil.height = stage.height;
    const paint = veil.getContext('2d');
    paint.fillStyle = pattern;
    paint.fillRect(0, 0, veil.width, veil.height);
    paint.globalCompositeOperation = 'destination-out';
    paint.drawImage(marks.canvas, 0, 0);
    context.globalAlpha = 0.88;
    context.drawImage(veil, 0, 0);
    context.globalAlpha = 1;
  }

  function outline(from, to) {
    const a = toView(from), b = toView(to);
    context.lineWidth = 3;
    context.strokeStyle = 'rgb(0 0 0 / 70%)';
    context.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
    context.lineWidth = 1.5;
    context.strokeStyle = 'white';
    context.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
  }

  function handles() {
    const b = bounds(), a = toView([b.left, b.top]), c = toView([b.right, b.bottom]);
    return Object.entries(EDGES).map(([name, [dx, dy]]) => ({
      name, x: (a[0] + c[0]) / 2 + dx * (c[0] - a[0]) / 2, y: (a[1] + c[1]) / 2 + dy * (c[1] - a[1]) / 2,
    }));
  }

  function drawFrame() {
    const b = bounds();
    outline([b.left, b.top], [b.right, b.bottom]);
    handles().forEach(drawHandle);
  }

  function drawHandle({x, y}) {
    context.beginPath();
    context.arc(x, y, 9, 0, 7);
    context.fillStyle = 'white';
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = '#b8430b';
    context.stroke();
  }

  const corners = (placed) => placed.corners().map((each) => {
    const [x, y] = toView([each.x, each.y]);
    return {...each, x, y};
  });

  function drawPlacement(placed) {
    const {x, y, w, h} = placed.box, [width, height] = placed.size;
    outline([0, 0], placed.size);
    if (stage.frozen) return;
    const moving = act && act.kind === 'place';
    if (moving && placed.guides[0]) outline([width / 2, 0], [width / 2, height]);
    if (moving && placed.guides[1]) outline([0, height / 2], [width, height / 2]);
    context.setLineDash([6, 4]);
    outline([x - w / 2, y - h / 2], [x + w / 2, y + h / 2]);
    context.setLineDash([]);
    corners(placed).forEach(drawHandle);
  }

  function drawRing() {
    const [x, y] = keyed ? toView(cursor) : cursor;
    for (const [width, colour] of [[3, 'rgb(0 0 0 / 70%)'], [1.5, 'white']]) {
      context.beginPath();
      context.arc(x, y, stage.size / 2, 0, 7);
      if (keyed) {
        context.moveTo(x - 5, y);
        context.lineTo(x + 5, y);
        context.moveTo(x, y - 5);
        context.lineTo(x, y + 5);
      }
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke();
    }
  }

  // ---------------------------------------------------------------------------------------------------------- view

  stage.fit = () => {
    const b = bounds(), width = b.right - b.left, height = b.bottom - b.top;
    const room = stage.frame || placing() ? 26 : 8; // for the handles
    const [w, h] = [Math.max(view.clientWidth - 2 * room, 1), Math.max(view.clientHeight - 2 * room, 1)];
    stage.zoom = Math.min(w / Math.max(width, 1), h / Math.max(height, 1), 2);
    stage.x = view.clientWidth / 2 - (b.left + b.right) / 2 * stage.zoom;
    stage.y = view.clientHeight / 2 - (b.top + b.bottom) / 2 * stage.zoom;
    stage.fitted = true;
    stage.draw();
  };

  stage.zoomBy = (factor, point = [view.clientWidth / 2, view.clientHeight / 2]) => {
    const zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, stage.zoom * factor));
    stage.x = point[0] - (point[0] - stage.x) * zoom / stage.zoom;
    stage.y = point[1] - (point[1] - stage.y) * zoom / stage.zoom;
    stage.zoom = zoom;
    stage.fitted = false;
    stage.draw();
  };

  function panBy(dx, dy) {
    stage.x += dx;
    stage.y += dy;
    stage.fitted = false;
    stage.draw();
  }

  // `marks`: {change, keep} of this photograph, made by the caller, who keeps them for when it comes back.
  stage.show = (photo, before, native, marks) => {
    const same = stage.photo && photo && stage.width === photo.naturalWidth && stage.height === photo.naturalHeight;
    Object.assign(stage, {photo, before, native, marks, comparing: false});
    stage.width = photo ? photo.naturalWidth : 0;
    stage.height = photo ? photo.naturalHeight : 0;
    if (!same || stage.fitted) stage.fit();
    stage.draw();
  };

  // --------------------------------------------------------------------------------------------------------- marks

  function dab(marks, from, to) {
    const paint = marks.context;
    paint.globalCompositeOperation = stage.tool === 'eraser' ? 'destination-out' : 'source-over';
    paint.strokeStyle = paint.fillStyle = MARK;
    paint.lineWidth = Math.max(1, stage.size / stage.zoom);
    paint.lineCap = 'round';
    paint.beginPath();
    if (from[0] === to[0] && from[1] === to[1]) { // a line without length is not drawn
      paint.arc(...to, paint.lineWidth / 2, 0, 7);
      paint.fill();
    } else {
      paint.moveTo(...from);
      paint.lineTo(...to);
      paint.stroke();
    }
    paint.globalCompositeOperation = 'source-over';
  }

  stage.markBox = (from, to) => {
    const marks = active();
    if (!marks || stage.frozen) return;
    const changed = marks.step((paint) => {
      paint.fillStyle = MARK;
      paint.fillRect(from[0], from[1], to[0] - from[0], to[1] - from[1]);
    });
    stage.draw();
    if (changed) on.marked('box');
  };

  stage.clear = () => {
    const marks = active();
    if (!marks) return;
    const changed = marks.step((paint) => paint.clearRect(0, 0, marks.canvas.width, marks.canvas.height));
    stage.draw();
    if (changed) on.marked('clear');
  };

  for (const which of ['undo', 'redo'])
    stage[which] = () => {
      const changed = active() && active()[which]();
      stage.draw();
      if (changed) on.marked(which);
      return Boolean(changed);
    };

  // ------------------------------------------------------------------------------------------------------ pointers

  // The handle that a finger at `point` hits.
  const nearest = (found, point) => found.map((each) => ({...each, far: Math.hypot(each.x - point[0], each.y - point[1])}))
    .filter((each) => each.far <= REACH).sort((a, b) => a.far - b.far)[0];

  function begin(event, point) {
    const middle = event.button === 1;
    if (stage.frame && !middle && stage.tool !== 'hand') {
      const near = nearest(handles(), point), edge = near ? near.name : edgeAt(point);
      if (edge) return {kind: 'frame', edge, from: toPicture(point), margins: {...stage.frame}};
    }
    const placed = placing();
    if (placed && !middle && !stage.frozen) {
      const corner = nearest(corners(placed), point), spot = toPicture(point);
      if (corner || placed.holds(spot, 10 / stage.zoom)) return placed.begin(spot, corner && corner.name);
    }
    const marks = active();
    if (middle || stage.tool === 'hand' || !marks || stage.frozen) return {kind: 'pan', last: point};
    const start = toPicture(point);
    if (stage.tool === 'box') return {kind: 'box', from: start, to: start};
    const before = marks.all();
    stage.veiled = true;
    dab(marks, start, start);
    return {kind: 'stroke', marks, before, last: start};
  }

  function edgeAt(point) {
    const b = bounds(), a = toView([b.left, b.top]), c = toView([b.right, b.bottom]);
    const inside = point[0] > a[0] - 10 && point[0] < c[0] + 10 && point[1] > a[1] - 10 && point[1] < c[1] + 10;
    if (!inside) return null;
    const y = Math.abs(point[1] - a[1]) < 10 ? 'n' : Math.abs(point[1] - c[1]) < 10 ? 's' : '';
    const x = Math.abs(point[0] - a[0]) < 10 ? 'w' : Math.abs(point[0] - c[0]) < 10 ? 'e' : '';
    return y + x || null;
  }

  function dragFrame(point) {
    const now = toPicture(point), s = scale(), [dx, dy] = EDGES[act.edge];
    const by = [(now[0] - act.from[0]) / s, (now[1] - act.from[1]) / s];
    const m = {...act.margins}, most = 2 * Math.max(...stage.native);
    const limit = (value) => Math.round(Math.min(most, Math.max(0, value)));
    if (dx < 0) m.left = limit(m.left - by[0]);
    if (dx > 0) m.right = limit(m.right + by[0]);
    if (dy < 0) m.top = limit(m.top - by[1]);
    if (dy > 0) m.bottom = limit(m.bottom + by[1]);
    stage.frame = m;
    on.framed(m, false);
  }

  const pinch = () => {
    const [a, b] = [...pointers.values()];
    return {middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], far: Math.hypot(a[0] - b[0], a[1] - b[1])};
  };

  canvas.addEventListener('pointerdown', (event) => {
    if (event.button > 1 || !stage.photo) return;
    if (event.button === 1) event.preventDefault(); // no scrolling by the wheel's button
    const point = at(event);
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, point);
    keyed = false;
    cursor = point;
    if (pointers.size === 1) act = begin(event, point);
    if (pointers.size === 2) { // the first finger's stroke was the beginning of this
      if (act && act.kind === 'stroke') act.marks.context.putImageData(act.before, 0, 0);
      if (act && act.moved) on.placed(true, Boolean(act.corner));
      act = {kind: 'pinch', ...pinch()};
    }
    stage.draw();
  });

  canvas.addEventListener('pointermove', (event) => {
    const point = at(event);
    if (pointers.has(event.pointerId)) pointers.set(event.pointerId, point);
    keyed = false;
    cursor = event.pointerType === 'touch' && !act ? null : point;
    canvas.style.cursor = cursorFor(point);
    if (!act) return stage.draw();
    if (act.kind === 'pan') {
      panBy(point[0] - act.last[0], point[1] - act.last[1]);
      act.last = point;
    } else if (act.kind === 'pinch' && pointers.size === 2) {
      const now = pinch();
      panBy(now.middle[0] - act.middle[0], now.middle[1] - act.middle[1]);
      stage.zoomBy(now.far / Math.max(act.far, 1), now.middle);
      Object.assign(act, now);
    } else if (act.kind === 'frame') {
      dragFrame(point);
    } else if (act.kind === 'place') {
      act.moved = true;
      placing().drag(act, toPicture(point), 7 / stage.zoom);
      on.placed(false, Boolean(act.corner));
    } else if (act.kind === 'box') {
      act.to = toPicture(point);
    } else if (act.kind === 'stroke') {
      for (const each of [...(event.getCoalescedEvents ? event.getCoalescedEvents() : []), event]) {
        const to = toPicture(at(each));
        dab(act.marks, act.last, to);
        act.last = to;
      }
    }
    stage.draw();
  });

  function cursorFor(point) {
    if (act && act.kind === 'pan') return 'grabbing';
    if (stage.frame && stage.tool !== 'hand') {
      const near = nearest(handles(), point), edge = near ? near.name : edgeAt(point);
      if (edge) return `${edge}-resize`;
    }
    const placed = placing(), corner = placed && nearest(corners(placed), point);
    if (corner) return `${corner.name}-resize`;
    if (placed && placed.holds(toPicture(point), 0)) return 'move';
    if (!active() || stage.tool === 'hand') return 'grab';
    return stage.tool === 'box' ? 'crosshair' : 'none';
  }

  function end(event, dropped) {
    if (!pointers.delete(event.pointerId) || pointers.size) return;
    const ended = act;
    act = null;
    if (event.pointerType === 'touch') cursor = null;
    stage.draw();
    if (!ended) return;
    if (ended.kind === 'place') {
      if (ended.moved) on.placed(true, Boolean(ended.corner));
    } else if (ended.kind === 'frame') {
      stage.fit();
      on.framed(stage.frame, true);
    } else if (ended.kind === 'box' && !dropped) {
      stage.markBox(ended.from, ended.to);
    } else if (ended.kind === 'stroke') {
      if (ended.marks.step(() => {}, ended.before)) on.marked('stroke');
      stage.draw();
    }
  }
  canvas.addEventListener('pointerup', (event) => end(event, false));
  canvas.addEventListener('pointercancel', (event) => end(event, true));
  canvas.addEventListener('pointerleave', () => { if (!act) { cursor = null; stage.draw(); } });
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    stage.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), at(event));
  }, {passive: false});

  // ---------------------------------------------------------------------------------------------------------- keys

  const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  canvas.addEventListener('keydown', (event) => {
    const way = ARROWS[event.key];
    if (!stage.photo || event.ctrlKey || event.metaKey) return;
    if (way && placing() && !stage.frozen) {
      const {box, size} = placing(), step = event.shiftKey ? 0.05 : 0.005;
      placing().moveTo(box.x + way[0] * step * size[0], box.y + way[1] * step * size[1]);
      on.placed(true, false);
      on.pointed(box.x / size[0], box.y / size[1]);
    } else if (way && !active()) {
      panBy(-40 * way[0], -40 * way[1]);
    } else if (way) {
      const step = (event.shiftKey ? 0.1 : 0.02) * Math.max(stage.width, stage.height);
      if (!keyed || !cursor) cursor = [stage.width / 2, stage.height / 2];
      cursor = [
        Math.min(stage.width, Math.max(0, cursor[0] + step * way[0])),
        Math.min(stage.height, Math.max(0, cursor[1] + step * way[1])),
      ];
      keyed = true;
      on.pointed(cursor[0] / stage.width, cursor[1] / stage.height);
    } else if ((event.key === ' ' || event.key === 'Enter') && active() && !stage.frozen) {
      if (!keyed || !cursor) cursor = [stage.width / 2, stage.height / 2];
      keyed = true;
      if (active().step(() => dab(active(), cursor, cursor))) on.marked('key');
    } else {
      return;
    }
    event.preventDefault();
    stage.draw();
  });
  canvas.addEventListener('blur', () => { if (keyed) { cursor = null; stage.draw(); } });
  new ResizeObserver(stage.draw).observe(view);
  return stage;
}
