"""Which narrow numbers a device multiplies, so that a plan can be made for any device.

This is a table, not a trial: a plan for a machine that is not at hand can be asked for and
printed. It says what XLA accepts on the device, not how fast it is.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Device:
    """What decides which products a device has.

    Attributes:
      platform: "cpu", "gpu" or "tpu", as `jax.Device.platform` says.
      capability: Compute capability of an NVIDIA GPU, such as (9, 0); (0, 0) elsewhere.
    """

    platform: str
    capability: tuple[int, int] = (0, 0)

    @classmethod
    def current(cls) -> "Device":
        """The first device that this process runs on."""
        device = jax.devices()[0]
        major, _, minor = str(getattr(device, "compute_capability", "0.0")).partition(".")
        numbers = major.isdecimal() and minor.isdecimal()
        return cls(device.platform, (int(major), int(minor)) if numbers else (0, 0))

    def lacks(self, kind: str) -> str:
        """Why the device has no product of this kind; empty where it has one."""
        if kind == "int4" and self.platform != "tpu":
            return f"XLA multiplies no int4 on {self.platform}"
        if kind == "float8" and self.platform == "gpu" and self.capability < (8, 9):
            return "float8 products need a GPU of compute capability 8.9"
        if kind == "scaled" and (self.platform != "gpu" or self.capability < (10, 0)):
            return "block-scaled products need a GPU of compute capability 10.0"
        if kind == "pallas" and self.platform not in ("gpu", "tpu"):
            return f"Pallas kernels are not compiled on {self.platform}"
        return ""
