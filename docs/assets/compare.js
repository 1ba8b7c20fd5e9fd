// Two pictures of a .compare lie on one another; what is dragged, at data-at or in the middle, parts them.
// Without this script they stand side by side.
for (const figure of document.querySelectorAll(".compare")) {
  const [before, after] = figure.querySelectorAll("img")
  const handle = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 100, value: figure.dataset.at ?? 50, step: "any" })
  handle.setAttribute("aria-label", `${before.alt} and ${after.alt}: move to compare`)
  const show = () => figure.style.setProperty("--at", `${handle.value}%`)
  handle.addEventListener("input", show)
  after.after(handle)
  figure.classList.add("compare--on")
  show()
}
