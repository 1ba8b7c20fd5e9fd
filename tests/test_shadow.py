"""The shadow of a subject, from its matte."""

import numpy as np
import pytest

from photofound.edits.shadow import KINDS, POSES, Shadow, cast, of_inputs, standing_line


def bottle(height=240, width=320, top=60, bottom=180, left=135, right=185):
    matte = np.zeros((height, width), np.float32)
    matte[top:bottom, left:right] = 1
    return matte


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_it_is_a_share_of_the_light_and_the_same_every_time(kind, pose):
    shadow = Shadow.of(kind, pose=pose)
    dark = cast(bottle(), shadow)
    assert dark.dtype == np.float32 and dark.shape == (240, 320) and dark.min() >= 0
    assert 0.1 < dark.max() <= shadow.intensity + 1e-6
    assert (dark == cast(bottle(), shadow)).all()


def test_it_falls_where_it_is_told():
    right, left = (cast(bottle(), Shadow(direction=angle)) for angle in (80, 280))
    assert np.abs(right - left[:, ::-1]).max() < 0.05
    assert right[150:185, 190:260].sum() > 1.5 * right[150:185, 60:130].sum()
    front, back = (cast(bottle(), Shadow("hard", angle, 0.06))[184:210, 120:200].sum() for angle in (180, 0))
    assert front > 4 * back


def test_it_is_sharp_at_the_contact_and_blurs_with_distance():
    dark = cast(bottle(left=110, right=120), Shadow("soft", 90, softness=0.5, spread=1.0))
    edges = [np.abs(np.diff(dark[150:190, column])).max() for column in (124, 150, 190)]
    assert edges[0] > 1.5 * edges[1] > 1.5 * edges[2]


def test_softness_spread_and_intensity():
    base = {"kind": "hard", "direction": 90, "softness": 0.05, "spread": 0.5}
    one, far = cast(bottle(), Shadow(**base)), cast(bottle(), Shadow(**{**base, "spread": 1.0}))
    assert (far[160:182, 250:] > 0.1).any() and not (one[160:182, 250:] > 0.1).any()
    soft = cast(bottle(), Shadow(**{**base, "softness": 0.9}))
    assert np.abs(np.diff(soft[175, 190:])).max() < 0.7 * np.abs(np.diff(one[175, 190:])).max()
    pale = cast(bottle(), Shadow(**base, intensity=0.25))
    assert np.allclose(2 * pale, one, atol=1e-5)


def test_it_stays_in_the_frame_unless_it_is_told_how_far():
    tall = bottle(240, 320, 20, 220, 240, 280)
    assert cast(tall, Shadow("hard", 90, 0.06))[:, -3:].max() < 0.12
    assert cast(tall, Shadow("hard", 90, 0.06, spread=1.0))[:, -3:].max() > 0.3


def test_a_contact_shadow_is_narrow():
    dark = cast(bottle(), Shadow.of("contact"))
    assert dark[178:183, 140:180].mean() > 0.18 and dark[215:].max() < 0.06 and dark[:140].max() < 0.1


def test_what_lies_has_its_shadow_around_it_and_what_hangs_away_from_it():
    lying = cast(bottle(), Shadow.of("soft", 135, pose="lying"))
    assert lying[184, 160] > 0.15 and lying[56, 160] > 0.01 and lying[184, 160] > lying[56, 160]
    hanging = cast(bottle(), Shadow.of("hard", 135, pose="hanging"))
    assert hanging[186, 190] > 0.2 and hanging[58, 133] < 0.1


def test_the_line_on_which_a_subject_stands_follows_a_slanted_base():
    matte = np.zeros((200, 300), np.float32)
    for x in range(50, 250):
        matte[60 : 150 + (x - 50) // 10, x] = 1
    line = standing_line(matte)
    assert line.shape == (300,) and 154 < line[80] < line[150] < line[220] < 171
    assert np.abs(np.diff(line)).max() < 0.3


def test_nothing_ends_in_front_of_a_subject_that_stands_low_in_the_frame():
    """A plate seen from above: where its rim rises, columns move up, and what is below the frame comes in."""
    y, x = np.mgrid[:200, :300]
    matte = (np.hypot((x - 150) / 100, (y - 125) / 70) < 1).astype(np.float32)
    dark = cast(matte, Shadow(kind="contact"))
    outside = matte == 0
    steps = np.abs(np.diff(dark, axis=0))[outside[1:] & outside[:-1]]
    assert dark.max() > 0.3 and steps.max() < 0.05, "no edge across the ground"


def test_inputs_have_the_kinds_defaults():
    assert of_inputs({}, "none") is None and of_inputs({"shadow": "none"}, "soft") is None
    assert of_inputs({}, "soft") == Shadow.of("soft")
    assert of_inputs({"shadow_intensity": "30%"}, "none").intensity == 0.3  # who says how dark wants one
    asked = {"shadow": "hard", "shadow_direction": 400, "shadow_softness": 0.2, "shadow_spread": "120%"}
    assert of_inputs(asked, "none") == Shadow("hard", 40.0, 0.2, 1.2, 0.5)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"shadow": "long"}, "shadow: 'long' is unknown; use none, soft, hard, contact"),
        ({"shadow": "soft", "shadow_pose": "flying"}, "shadow_pose: 'flying' is unknown"),
        ({"shadow": "soft", "shadow_softness": "120%"}, "shadow_softness: '120%' must be a share from 0% to 100%"),
        ({"shadow": "soft", "shadow_spread": "x"}, "shadow_spread: 'x'"),
        ({"shadow": "soft", "shadow_direction": "north"}, "shadow_direction: 'north' must be degrees"),
    ],
)
def test_bad_settings_are_one_line(given, message):
    with pytest.raises(ValueError, match=message):
        of_inputs(given, "none")


def test_nothing_opaque():
    with pytest.raises(ValueError, match="nothing is opaque"):
        cast(np.zeros((9, 9), np.float32), Shadow())
