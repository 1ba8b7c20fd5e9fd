"""Where results come from, in one import: the mark and the recipe in a file, the proof that a photograph was kept, and
making a result again.

    from photofound import provenance

    image.save(provenance.mark(result), "out.png")
    provenance.recipe("out.png")                                # how it was made, as a dictionary
    provenance.verify("room.png", "theirs.png", mask="mask.png").altered
    provenance.redo("out.png").same
"""

from typing import Any

from photofound.edits.proof import Proof as Proof
from photofound.edits.proof import verify as verify
from photofound.picture.compare import Comparison as Comparison
from photofound.picture.provenance import COMPOSITE as COMPOSITE
from photofound.picture.provenance import GENERATED as GENERATED
from photofound.picture.provenance import mark as mark
from photofound.picture.provenance import recipe as recipe
from photofound.picture.provenance import source_type as source_type


def redo(result: Any, **options: Any) -> Any:
    """See ``photofound.redo.redo``; torch is imported only for this."""
    from photofound.redo import redo as again

    return again(result, **options)
