"""The half-cheetah: a body of seven parts in a vertical plane, as numbers, and its MuJoCo model.

Source: Wawrzynski 2009, "A cat-like robot real-time learning to run", in the form of rllab (Duan et al. 2016,
"Benchmarking deep reinforcement learning for continuous control"), which gymnasium's HalfCheetah has to this day.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy
from numpy.typing import NDArray

from metarun.errors import UserError

Array = NDArray[Any]

MASS = 14.0  # kg, of the whole body; the capsules have one density
RADIUS = 0.046  # m, of every capsule
TIME_STEP = 0.01  # s, of the physics
JOINTS = 9  # x, z and pitch of the torso, then the six of the legs; as many velocities
MOTORS = 6
INSTALL = "pip install 'metarun[mujoco]'"


class Part(NamedTuple):
    """A part of a leg: a capsule on a hinge with a spring, a damper and a motor.

    Attributes:
        name: of the part, its hinge and its motor.
        on: the part that it hangs on.
        hinge: (x, z) of the hinge on that part, m.
        middle: (x, z) of the capsule's middle, from the hinge, m.
        tilt: angle of the capsule, about the y axis, rad.
        half: half the length of the capsule without its caps, m.
        limits: of the hinge's angle, rad.
        stiffness: of the spring, N m / rad.
        damping: N m s / rad.
        gear: torque of a full action, N m.
    """

    name: str
    on: str
    hinge: tuple[float, float]
    middle: tuple[float, float]
    tilt: float
    half: float
    limits: tuple[float, float]
    stiffness: float
    damping: float
    gear: float


LEGS = (  # in the order of joints, actions and bodies; b: back, f: front
    Part("bthigh", "torso", (-0.5, 0.0), (0.1, -0.13), -3.8, 0.145, (-0.52, 1.05), 240, 6, 120),
    Part("bshin", "bthigh", (0.16, -0.25), (-0.14, -0.07), -2.03, 0.15, (-0.785, 0.785), 180, 4.5, 90),
    Part("bfoot", "bshin", (-0.28, -0.14), (0.03, -0.097), -0.27, 0.094, (-0.4, 0.785), 120, 3, 60),
    Part("fthigh", "torso", (0.5, 0.0), (-0.07, -0.12), 0.52, 0.133, (-1.0, 0.7), 180, 4.5, 120),
    Part("fshin", "fthigh", (-0.14, -0.24), (0.065, -0.09), -0.6, 0.106, (-1.2, 0.87), 120, 3, 60),
    Part("ffoot", "fshin", (0.13, -0.18), (0.045, -0.07), -0.6, 0.07, (-0.5, 0.5), 60, 1.5, 30),
)
HEIGHT = 0.7  # m, of the torso's middle where its z is 0
TORSO = 0.5  # m, half its length
HEAD = ((0.6, 0.1), 0.87, 0.15)  # middle, tilt and half length, on the torso
CONTACT = {"friction": "0.4 0.1 0.1", "condim": "3", "solref": "0.02 1", "solimp": "0 0.8 0.01"}
LIMIT = {"limited": "true", "solreflimit": "0.02 1", "solimplimit": "0 0.8 0.03"}


def description() -> str:
    """Write the body down in MuJoCo's XML, without its mass."""
    root = ElementTree.Element("mujoco", model="half_cheetah")

    def add(parent: ElementTree.Element, tag: str, **words: object) -> ElementTree.Element:
        texts = {
            key: " ".join(map(str, value)) if isinstance(value, tuple) else str(value) for key, value in words.items()
        }
        return ElementTree.SubElement(parent, tag, texts)

    def capsule(body: ElementTree.Element, middle: tuple[float, float], tilt: float, half: float) -> None:
        at = (middle[0], 0, middle[1])
        add(body, "geom", type="capsule", pos=at, axisangle=(0, 1, 0, tilt), size=(RADIUS, half), **touches)

    add(root, "compiler", angle="radian", inertiafromgeom="true")
    add(root, "option", timestep=TIME_STEP, gravity=(0, 0, -9.81))
    world, motors = add(root, "worldbody"), add(root, "actuator")
    add(world, "geom", type="plane", size=(40, 40, 40), contype=1, conaffinity=1, **CONTACT)
    touches = {"contype": 1, "conaffinity": 0, **CONTACT}  # the floor, and no part of the body
    bodies = {"torso": add(world, "body", name="torso", pos=(0, 0, HEIGHT))}
    for name, kind, axis in (("x", "slide", (1, 0, 0)), ("z", "slide", (0, 0, 1)), ("pitch", "hinge", (0, 1, 0))):
        add(bodies["torso"], "joint", name=name, type=kind, axis=axis, limited="false")
    add(bodies["torso"], "geom", type="capsule", fromto=(-TORSO, 0, 0, TORSO, 0, 0), size=RADIUS, **touches)
    capsule(bodies["torso"], *HEAD)
    for part in LEGS:
        body = add(bodies[part.on], "body", name=part.name, pos=(part.hinge[0], 0, part.hinge[1]))
        bodies[part.name] = body
        spring = {"stiffness": part.stiffness, "damping": part.damping, "armature": 0.1}
        add(body, "joint", name=part.name, type="hinge", axis=(0, 1, 0), range=part.limits, **spring, **LIMIT)
        capsule(body, part.middle, part.tilt, part.half)
        reach = {"ctrllimited": "true", "ctrlrange": (-1, 1)}
        add(motors, "motor", name=part.name, joint=part.name, gear=part.gear, **reach)
    return ElementTree.tostring(root, encoding="unicode")


def mujoco() -> Any:
    """Import MuJoCo, with ``mujoco.rollout``.

    Raises:
        UserError: it is not installed, or too old; the message has the command that installs it.
    """
    try:
        import mujoco
        import mujoco.rollout
    except ImportError as error:
        raise UserError(f"dataset: the half-cheetah needs MuJoCo ({error}): {INSTALL}") from None
    if not hasattr(mujoco.rollout, "Rollout"):
        raise UserError(f"dataset: the half-cheetah needs MuJoCo 3.2.7 or later, not {mujoco.__version__}: {INSTALL}")
    return mujoco


def model() -> Any:
    """Compile the body, with its mass; returns a ``mujoco.MjModel``. Nothing is printed or written."""
    library = mujoco()
    compiled = library.MjModel.from_xml_string(description())
    library.mj_setTotalmass(compiled, MASS)  # the XML's own word for it is deprecated, and prints and writes files
    library.mj_setConst(compiled, library.MjData(compiled))
    return compiled


@contextmanager
def silent(library: Any) -> Iterator[None]:
    """Within, MuJoCo neither prints its warnings nor writes them to a file in the working directory."""
    before = library.get_mju_user_warning()
    library.set_mju_user_warning(lambda words: None)
    try:
        yield
    finally:
        library.set_mju_user_warning(before)


class Centre:
    """The centre of mass of the whole body, and its velocity.

    All parts turn about the y axis, so the centre is that of the torso plus a fixed arm on each part, turned by the
    part's pitch. Every sum has a fixed order, so that the bits of a body do not depend on how many stand beside it.

    Args:
        model: the ``mujoco.MjModel``.
    """

    def __init__(self, model: Any):
        names = ["torso", *(part.name for part in LEGS)]
        self.parents = [0, *(names.index(part.on) for part in LEGS)]
        beyond = numpy.array(model.body_mass[1:])  # of each part and of all that hangs on it
        arms = beyond[:, None] * model.body_ipos[1:]
        for part in reversed(range(1, len(names))):
            parent = self.parents[part]
            beyond[parent] += beyond[part]
            arms[parent] += beyond[part] * model.body_pos[1 + part]
        self.arms = arms / beyond[0]
        self.start = numpy.array(model.body_pos[1])

    def __call__(self, joints: Array, speeds: Array) -> tuple[Array, Array]:
        """Compute the centre.

        Args:
            joints: [9, B] positions.
            speeds: [9, B] velocities.

        Returns:
            (position [B, 3], velocity along x [B]).
        """
        pitch, rate = self._summed(joints[2:]), self._summed(speeds[2:])
        cos, sin = numpy.cos(pitch), numpy.sin(pitch)
        x, z = self.arms[:, 0, None], self.arms[:, 2, None]
        up = cos * z - sin * x
        at = numpy.zeros((joints.shape[1], 3))
        at[:, 0] = self.start[0] + joints[0] + (cos * x + sin * z).sum(0)
        at[:, 2] = self.start[2] + joints[1] + up.sum(0)
        return at, speeds[0] + (rate * up).sum(0)

    def _summed(self, turns: Array) -> Array:
        """Add up what the torso and each hinge turn, [7, B], to what each part is turned."""
        total = turns.copy()
        for part in range(1, len(total)):
            total[part] += total[self.parents[part]]
        return total
