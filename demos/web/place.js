// Where a subject lies on the canvas of its result, and how large: by pointer, keys or numbers. While it moves it is a
// ghost, the cut-out alone on the background alone; once the server has answered it is the finished picture, made small.
//
// Coordinates are pixels of the result's canvas. `box` is what the task fits and aligns; the ghost lies relative to it.

const CORNERS = {nw: [-1, -1], ne: [1, -1], se: [1, 1], sw: [-1, 1]};
const OWN_SIZE = 0.025; // nearer than this to its own size, a subject snaps to it: then its pixels are the photograph's
const LARGEST_SCALE = 20, LEAST_SIDE = 8; // the scale that a task takes, and the least side of a box in pixels

const loaded = (url) => new Promise((done) => {
  if (!url) return done(null);
  const picture = new Image();
  picture.onload = () => done(picture);
  picture.onerror = () => done(null);
  picture.src = url;
});

const percent = (share) => `${Number((100 * share).toFixed(2))}%`;

function makePlacement() {
  const placement = {
    size: null, // [width, height] of the canvas; null = nothing to place
    box: null, scale: 1, // {x, y, w, h}: centre and size
    ghost: null, ground: null, look: null, // pictures; no ground: transparent
    key: null, // of the ghost, so that the server need not send it again
    stale: false, // whether the subject was moved since the server drew it
    finished: false, // whether the picture that lies there is the result of what is asked for
    guides: [false, false],
  };
  let around = null; // the ghost's place, relative to the box's centre, for a box of width 1

  placement.clear = () => Object.assign(placement, {size: null, stale: false, finished: false});

  // Take what the server has drawn; `wanted()` says whether it is still what is asked for.
  placement.take = async (answer, wanted) => {
    const urls = [answer.look, answer.ground, answer.ghost.url];
    const [look, ground, ghost] = await Promise.all(urls.map(loaded));
    if (!wanted()) return false;
    const [left, top, right, bottom] = answer.box, w = right - left, h = bottom - top;
    const [x, y, width, height] = answer.ghost.box, centre = [left + w / 2, top + h / 2];
    around = {x: (x - centre[0]) / w, y: (y - centre[1]) / w, w: width / w, h: height / w};
    Object.assign(placement, {
      size: answer.canvas, box: {x: centre[0], y: centre[1], w, h}, scale: answer.scale, look, ground, stale: false,
    });
    if (ghost) Object.assign(placement, {ghost, key: answer.ghost.key});
    return true;
  };

  // The inputs of the task that say where the subject is now.
  placement.inputs = () => {
    const {box, size} = placement;
    return {at: `${percent(box.x / size[0])},${percent(box.y / size[1])}`, fit: percent(placement.scale)};
  };

  placement.moveTo = (x, y) => {
    const {box, size} = placement;
    box.x = Math.min(size[0], Math.max(0, x));
    box.y = Math.min(size[1], Math.max(0, y));
    placement.stale = true;
  };

  // Scale the subject about a point that stays: `about`, or its centre.
  placement.scaleTo = (scale, about = [placement.box.x, placement.box.y]) => {
    const {box} = placement, least = LEAST_SIDE / Math.min(box.w, box.h) * placement.scale;
    let wanted = Math.min(LARGEST_SCALE, Math.max(least, scale));
    if (Math.abs(wanted - 1) < OWN_SIZE) wanted = 1;
    const factor = wanted / placement.scale;
    Object.assign(box, {
      x: about[0] + (box.x - about[0]) * factor, y: about[1] + (box.y - about[1]) * factor,
      w: box.w * factor, h: box.h * factor,
    });
    placement.scale = wanted;
    placement.stale = true;
  };

  placement.corners = () => Object.entries(CORNERS).map(([name, [dx, dy]]) => {
    const {x, y, w, h} = placement.box;
    return {name, x: x + dx * w / 2, y: y + dy * h / 2};
  });

  placement.holds = ([x, y], reach) => {
    const {box} = placement;
    return Math.abs(x - box.x) <= box.w / 2 + reach && Math.abs(y - box.y) <= box.h / 2 + reach;
  };

  // A drag begins at `point`, on the corner of that name or on the subject.
  placement.begin = (point, corner) => {
    const {box, scale} = placement;
    if (!corner) return {kind: 'place', from: point, box: {...box}};
    const [dx, dy] = CORNERS[corner];
    return {kind: 'place', corner, scale, box: {...box}, anchor: [box.x - dx * box.w / 2, box.y - dy * box.h / 2]};
  };

  // `near`: so many pixels from the canvas's middle the subject snaps to it.
  placement.drag = (act, point, near) => {
    const {size} = placement;
    if (!act.corner) {
      const to = [0, 1].map((i) => act.box[i ? 'y' : 'x'] + point[i] - act.from[i]);
      placement.guides = to.map((value, i) => Math.abs(value - size[i] / 2) < near);
      placement.moveTo(...to.map((value, i) => placement.guides[i] ? size[i] / 2 : value));
      return;
    }
    const [dx, dy] = CORNERS[act.corner], {w, h} = act.box; // how far the pointer is along the diagonal
    const along = (point[0] - act.anchor[0]) * dx * w + (point[1] - act.anchor[1]) * dy * h;
    placement.scaleTo(act.scale * along / (w * w + h * h), act.anchor);
  };

  // `instead`: what is shown in place of the subject on its canvas, as large as fits: a finished picture, or the one before.
  placement.paint = (context, pattern, instead) => {
    const [width, height] = placement.size;
    context.fillStyle = pattern;
    context.fillRect(0, 0, width, height);
    if (instead) {
      const fits = Math.min(width / instead.naturalWidth, height / instead.naturalHeight);
      const [w, h] = [instead.naturalWidth * fits, instead.naturalHeight * fits];
      context.drawImage(instead, (width - w) / 2, (height - h) / 2, w, h);
    } else if (placement.look && !placement.stale) {
      context.drawImage(placement.look, 0, 0, width, height);
    } else {
      if (placement.ground) context.drawImage(placement.ground, 0, 0, width, height);
      const {x, y, w} = placement.box;
      context.save();
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      if (placement.ghost) context.drawImage(placement.ghost, x + around.x * w, y + around.y * w, around.w * w, around.h * w);
      context.restore();
    }
  };

  return placement;
}
