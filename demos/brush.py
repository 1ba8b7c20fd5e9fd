"""A brush over a photograph, for a mouse and for a finger: a Gradio component in two canvases and sixty lines.

Gradio's own image editor needs WebGL, shifts layers that the server sends, and sends back a copy of the photograph that
has been through the browser. This one shows a preview and sends back what was painted, nothing else.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from photofound import image

TEMPLATE = """
<div class="tools" role="toolbar" aria-label="Brush">
  <button type="button" data-tool="paint" aria-pressed="true">Brush</button>
  <button type="button" data-tool="erase" aria-pressed="false">Eraser</button>
  <input type="range" min="4" max="120" value="36" aria-label="Size of the brush">
  <button type="button" data-tool="back">Undo</button>
  <button type="button" data-tool="clear">Clear</button>
</div>
<div class="stage"><img alt="The photograph" draggable="false"><canvas></canvas><i></i></div>
"""

STYLE = """
.tools { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin-bottom: 8px; }
.tools > * { margin: 0 !important; }
.tools button { font-size: var(--text-sm); padding: 5px 11px; border-radius: var(--radius-md); cursor: pointer;
  border: 1px solid var(--border-color-primary); background: var(--input-background-fill);
  color: var(--body-text-color); }
.tools button[aria-pressed=true] { background: ${colour}; border-color: ${colour}; color: white; font-weight: 600; }
.tools input { flex: 1 1 80px; min-width: 70px; max-width: 180px; accent-color: ${colour}; }
.stage { position: relative; width: fit-content; max-width: 100%; margin: 0 auto; overflow: hidden;
  border-radius: var(--radius-sm); touch-action: none; user-select: none; }
.stage img { display: block; max-width: 100%; max-height: 440px; margin: 0; }
.stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; opacity: 0.6; cursor: none; }
.stage i { position: absolute; border: 1.5px solid white; border-radius: 50%; box-shadow: 0 0 0 1px rgb(0 0 0 / 60%);
  transform: translate(-50%, -50%); pointer-events: none; visibility: hidden; }
.stage:hover i { visibility: visible; }
"""

SCRIPT = """
const find = (what) => element.querySelector(what);
const photo = find('img'), canvas = find('canvas'), ring = find('i'), size = find('input');
const context = canvas.getContext('2d', {willReadFrequently: true});
let tool = 'paint', last = null, strokes = [], sent = null, asked = 0;

const load = (source) => new Promise((done) => {
  const picture = new Image();
  picture.onload = () => done(picture);
  picture.onerror = () => done(null);
  picture.src = source;
});
const show = async () => {
  const value = props.value || {}, mine = ++asked;
  if (value.mask && value.mask === sent) return;  // what was painted here comes back
  element.dataset.ready = 'false';
  const [ground, mask] = await Promise.all([value.photo, value.mask].map((each) => each ? load(each) : null));
  if (mine !== asked) return;
  strokes = [];
  find('.stage').hidden = !ground;
  if (!ground) return;
  photo.src = value.photo;
  canvas.width = ground.naturalWidth;
  canvas.height = ground.naturalHeight;
  if (mask) context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  element.dataset.ready = 'true';
};
const commit = () => {
  sent = canvas.toDataURL('image/png');
  props.value = {...props.value, mask: sent};
  trigger('change');
};
const scale = () => canvas.width / canvas.getBoundingClientRect().width;
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * scale(), (event.clientY - box.top) * scale()];
};
const remember = () => {
  strokes = [...strokes.slice(-19), context.getImageData(0, 0, canvas.width, canvas.height)];
};
const draw = (event) => {
  const point = at(event);
  context.globalCompositeOperation = tool === 'erase' ? 'destination-out' : 'source-over';
  context.strokeStyle = context.fillStyle = props.colour;
  context.lineWidth = size.value * scale();
  context.lineCap = 'round';
  context.beginPath();
  if (last) {
    context.moveTo(...last);
    context.lineTo(...point);
    context.stroke();
  } else {  // a tap: a line without length is not drawn
    context.arc(...point, context.lineWidth / 2, 0, 7);
    context.fill();
  }
  last = point;
};
const follow = (event) => {
  const box = canvas.getBoundingClientRect();
  ring.style.cssText = `left:${event.clientX - box.left}px; top:${event.clientY - box.top}px; ` +
    `width:${size.value}px; height:${size.value}px`;
};
canvas.addEventListener('pointerdown', (event) => {
  if (event.button || element.dataset.ready !== 'true') return;
  canvas.setPointerCapture(event.pointerId);
  remember();
  draw(event);
});
canvas.addEventListener('pointermove', (event) => {
  follow(event);
  if (last) (event.getCoalescedEvents?.() || [event]).concat(event).forEach(draw);
});
for (const end of ['pointerup', 'pointercancel'])
  canvas.addEventListener(end, () => { if (last) { last = null; commit(); } });
find('.tools').addEventListener('click', (event) => {
  const chosen = event.target.dataset.tool;
  if (chosen === 'paint' || chosen === 'erase') {
    tool = chosen;
    for (const each of element.querySelectorAll('[aria-pressed]'))
      each.setAttribute('aria-pressed', each.dataset.tool === tool);
  } else if (chosen === 'clear') {
    remember();
    context.clearRect(0, 0, canvas.width, canvas.height);
    commit();
  } else if (chosen === 'back' && strokes.length) {
    context.putImageData(strokes.pop(), 0, 0);
    commit();
  }
});
watch('value', show);
show();
"""


def brush(colour: Sequence[int], **settings: Any) -> gr.HTML:
    """The component. Its value is what ``painting`` makes and ``painted`` reads; it triggers ``change`` after a stroke.

    Not a subclass: Gradio writes a .pyi file beside the source of every one.
    """
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=STYLE,
        js_on_load=SCRIPT,
        colour="#{:02x}{:02x}{:02x}".format(*colour),
        **settings,
    )


def painting(photo: np.ndarray, mask: np.ndarray | None, colour: Sequence[int], id: str = "") -> dict[str, str | None]:
    """A photograph, (h, w, 3) uint8, and what is painted on it already, (h, w) in [0, 1] or None, for the browser.
    ``id`` tells the photograph from others: it comes back with what is painted."""
    return {
        "id": id,
        "photo": _url(photo, "JPEG", quality=90),
        "mask": None if mask is None else _url(layer(mask, colour), "PNG"),
    }


def painted(value: dict[str, str | None] | None) -> np.ndarray | None:
    """The mask that the browser sent, (h, w) float32 in [0, 1], or None. Raises ValueError for what is no PNG."""
    url = (value or {}).get("mask")
    if not url:
        return None
    start, _, data = url.partition(",")
    if start != "data:image/png;base64":
        raise ValueError("the painted mask is not a PNG; reload the page")
    return image.decode(base64.b64decode(data), "the painted mask", max_pixels=4_000_000).alpha()


def layer(mask: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """(h, w) in [0, 1] -> (h, w, 4) uint8: one colour, as opaque as the mask is white."""
    painted = np.empty((*mask.shape, 4), np.uint8)
    painted[..., :3] = colour
    painted[..., 3] = np.rint(mask * 255)
    return painted


def _url(pixels: np.ndarray, format: str, **options: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
