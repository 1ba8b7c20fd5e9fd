"""Demos: the page in the browser, what ``make edit`` runs, nodes for ComfyUI. A file imports only what stands above it:

models      the models that visitors may choose from
preview     what is shown of pictures
desk        what lies before a visitor: a photograph, its history, and the desks of all visitors
words       the library's messages in the page's words
studio      what the demo does, without a browser
samples     five edits of sample photographs: make edit
marks       pictures and marks on their way to the browser and back
offers      what the page offers: tasks with their fields, samples, backgrounds
batch       one edit of many photographs
calls       what the page's script asks of the server
endpoints   each task for ``gradio_client``
page        the page: a component whose script is in ``web/``, and the events behind it
app         ``photofound demo``
pictures    the pictures of docs/tasks
limits      what a model does badly, for its card
comfyui     nodes for ComfyUI
"""

if __name__ == "demos":
    raise ImportError("import photofound.demos, not demos: the folder is a part of the photofound package")
