"""Tasks: one file is one edit."""

if __name__ == "tasks":
    raise ImportError("import photofound.tasks, not tasks: the folder is a part of the photofound package")
