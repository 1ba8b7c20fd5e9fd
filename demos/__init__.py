"""Demos in the browser."""

if __name__ == "demos":
    raise ImportError("import photofound.demos, not demos: the folder is a part of the photofound package")
