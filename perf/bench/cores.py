"""What the guest is not told of its two cores: how far apart they are, and whether somebody else runs on them.

How far: how long a write takes from one to the other and back. Virtual CPUs move about the host. Where two of them share a third-level cache at one time and not at another, whatever
passes between them costs several times as much, and neither the guest's clock nor what others use tells. Nor do they
tell that somebody else runs on the other hardware thread of a physical core, which then does half as much: that is its
pace.
"""

import subprocess
import time

from .servers import BASELINES

# Cores are apart at more than so many times their usual distance.
APART = 2
LOOKS, PAUSE_S = 40, 0.1
# Who shares a core all the time leaves it for moments: one look in a hundred finds it alone.
PACE_LOOKS = 500
# No sample is waited for longer.
MOST_S = 3


def are_apart(distance_ns, usual_ns):
    """Whether the cores are, at this distance."""
    return distance_ns > APART * usual_ns


def number_of(command):
    return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


class Cores:
    """Two cores, and how long a run may still wait for them to be near."""

    def __init__(self, one, other, patience_s):
        self.is_one = one == other
        raw = str(BASELINES / "release/baseline-raw")
        self.command = [raw, "distance", str(one), str(other)]
        self.pace_command = [raw, "pace", str(one)]
        self.patience_s = patience_s
        looks = []
        for _ in range(LOOKS):
            looks.append(self.distance_ns())
            time.sleep(PAUSE_S)
        # They are apart for seconds at a time, and nearer than usual for moments.
        self.usual_ns = sorted(looks)[LOOKS // 4]
        self.fastest_ps = min(self.pace_ps() for _ in range(PACE_LOOKS))

    def distance_ns(self):
        """Now; 0 from a core to itself."""
        if self.is_one:
            return 0
        return number_of(self.command)

    def pace_ps(self):
        """Of the first core now, in picoseconds of a step: less is faster."""
        return number_of(self.pace_command)

    def wait(self):
        """Until they are near, or for as long as may be. The distance then."""
        left_s = min(MOST_S, self.patience_s)
        while are_apart(distance := self.distance_ns(), self.usual_ns) and left_s > 0:
            time.sleep(PAUSE_S)
            left_s -= PAUSE_S
            self.patience_s -= PAUSE_S
        return distance
