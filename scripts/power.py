"""Cut the power of a small machine again and again: what was accepted before must be done after.

    make test-power [ARGS="--cuts 50"]

The machine is emulated by qemu and has a disk of its own. It dies with everything that its system
had not yet flushed to that disk, as a real one does. Needs Linux on x86-64, and as packages of
Debian: qemu-system-x86 busybox-static cpio e2fsprogs
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "power"
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "mkfs.ext4": "e2fsprogs",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}
# In the order in which they need each other.
MODULES = "virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk"
BOOT_S = 120.0
GUEST = "faults.power_guest"
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /sys /tmp /data
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko 2>/dev/null; done
/bin/busybox mount -t ext4 /dev/vda /data
/bin/busybox ip link set lo up
cd {tests}
export PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
boot=$(/bin/busybox sed 's/.*boot=//' /proc/cmdline)
{python} -m {guest} /data/app.db $boot
/bin/busybox poweroff -f
"""


@dataclass
class Outside:
    """What the machine told the world."""

    accepted: set[str] = field(default_factory=set)
    effects: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    attempts: int = 0
    integrity: str = ""
    over: bool = False
    unheard: list[str] = field(default_factory=list)
    """What the machine's system had to say."""

    def hear(self, line: str) -> bool:
        """Take a line, and say whether the application has begun."""
        match line.split():
            case ["@", "accepted", label]:
                self.accepted.add(label)
            case ["@", "effect", label, key]:
                self.effects[label].add(key)
                self.attempts += 1
            case ["@", "integrity", *words]:
                self.integrity = " ".join(words)
            case ["@", "over"]:
                self.over = True
            case ["@", "ready"]:
                return True
            case _:
                self.unheard.append(line)
        return False

    def listen(self, machine: Machine, timeout_s: float, *, until_ready: bool = False) -> None:
        for lines in machine.says(time.monotonic() + timeout_s):
            if any([self.hear(line) for line in lines]) and until_ready:
                return
        if until_ready:
            machine.cut()
            print("\n".join([*self.unheard, *machine.rest()]))
            raise SystemExit("The machine did not come to the application. What it said is above.")

    def cut(self, machine: Machine) -> None:
        machine.cut()
        for line in machine.rest():
            self.hear(line)

    @property
    def lost(self) -> list[str]:
        wanted = {f"{what}-{label}" for label in self.accepted for what in ("pay", "thank")}
        return sorted(wanted - set(self.effects))

    @property
    def duplicates(self) -> list[str]:
        return sorted(label for label, keys in self.effects.items() if len(keys) > 1)


class Machine:
    """One boot of the machine; it lives until its power is cut or it turns itself off."""

    def __init__(self, kernel: Path, boot: str) -> None:
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024"),
                *("-kernel", str(kernel), "-initrd", str(BUILD / "initrd")),
                *("-append", f"console=ttyS0 quiet panic=-1 boot={boot}"),
                *("-drive", f"file={BUILD / 'disk'},if=virtio,format=raw,cache=writeback"),
                *("-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none"),
                "-no-reboot",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._left = b""

    def says(self, until: float) -> Iterator[list[str]]:
        """What its console says until that time, in whole lines, some at once."""
        assert self._process.stdout is not None
        file = self._process.stdout.fileno()
        while (wait_s := until - time.monotonic()) > 0:
            if not select.select([file], [], [], wait_s)[0]:
                return
            if not (read := os.read(file, 65_536)):
                return
            yield self._whole_lines(read)

    def cut(self) -> None:
        self._process.kill()

    def rest(self) -> list[str]:
        """What it still said before it ended."""
        assert self._process.stdout is not None
        said = self._whole_lines(self._process.stdout.read())
        self._process.stdout.close()
        self._process.wait()
        return said

    def _whole_lines(self, read: bytes) -> list[str]:
        *whole, self._left = (self._left + read).split(b"\n")
        return [line.decode(errors="replace").strip() for line in whole]


def kernel() -> Path:
    """A kernel for virtual machines, from the system's own packages."""
    BUILD.mkdir(parents=True, exist_ok=True)
    if not list(BUILD.glob("kernel/boot/vmlinuz-*")):
        depends = run("apt-cache", "depends", "linux-image-cloud-amd64").splitlines()
        [name] = [line.split()[-1] for line in depends if "Depends: linux-image-" in line]
        run("apt-get", "download", "-q", name)
        [package] = BUILD.glob("linux-image-*.deb")
        run("dpkg-deb", "-x", str(package), "kernel")
    [found] = BUILD.glob("kernel/boot/vmlinuz-*")
    return found


def run(*command: str) -> str:
    return subprocess.run(command, cwd=BUILD, stdout=subprocess.PIPE, text=True, check=True).stdout


def used_files() -> set[Path]:
    """Every file that the application touches when it runs: a trial run, here, says which."""
    trial = BUILD / "trial.db"
    for path in BUILD.glob("trial.db*"):
        path.unlink()
    program = (
        f"import asyncio, pathlib, sys\nimport {GUEST} as guest\n"
        f"asyncio.run(guest.main(pathlib.Path({str(trial)!r}), 'last'))\n"
        "files = {getattr(m, '__file__', None) for m in list(sys.modules.values())}\n"
        "maps = {line.split()[-1] for line in open('/proc/self/maps') if '/' in line}\n"
        "print('FILES', *{f for f in files | maps if f and f.startswith('/')}, sep='\\n')\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search_path()))},
        cwd=ROOT / "tests",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    files = {Path(line) for line in told.partition("FILES\n")[2].splitlines()}
    used = {file for file in files if file.is_file() and not file.is_relative_to(BUILD)}
    # Libraries are loaded by names that are links to them.
    folders = {file.parent for file in used if ".so" in file.name}
    links = {link for folder in folders for link in folder.iterdir() if link.is_symlink()}
    return used | {link for link in links if link.resolve() in used}


def search_path() -> list[Path]:
    return [ROOT / "tests", *(Path(entry) for entry in sys.path if entry.endswith("-packages"))]


def write_initrd(modules: Path) -> None:
    """The machine's whole system: the files that the application uses, and a shell to start it."""
    tree = BUILD / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    python = Path(sys.executable).resolve()
    busybox = Path(shutil.which("busybox") or "")
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    encodings = set((Path(os.__file__).parent / "encodings").glob("*.py"))
    for file in {*used_files(), *encodings, python, loader}:
        copy(file, tree / file.relative_to("/"))
    copy(busybox, tree / "bin" / "busybox")
    for name in MODULES.split():
        [module] = modules.rglob(f"{name}.ko")
        copy(module, tree / "modules" / module.name)
    link_app(tree)
    init = tree / "init"
    init.write_text(
        INIT.format(
            modules=MODULES,
            tests=ROOT / "tests",
            path=":".join(map(str, search_path())),
            python=python,
            guest=GUEST,
        )
    )
    init.chmod(0o755)
    with (BUILD / "initrd").open("wb") as out:
        names = "\n".join(str(path.relative_to(tree)) for path in tree.rglob("*"))
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"],
            cwd=tree,
            input=names.encode(),
            stdout=out,
            check=True,
        )


def copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)


def link_app(tree: Path) -> None:
    """The package is reached through a link, as it is here."""
    real = (ROOT / "tests" / "app").resolve()
    link = tree / (ROOT / "tests" / "app").relative_to("/")
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    chosen = parser.parse_args()
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if missing:
        print(f"A power cut needs an emulator: apt-get install {' '.join(missing)}")
        return 2
    image = kernel()
    write_initrd(BUILD / "kernel" / "lib" / "modules")
    (BUILD / "disk").unlink(missing_ok=True)
    run("mkfs.ext4", "-q", "disk", "256M")
    outside = cut_again_and_again(image, chosen.cuts, random.Random(chosen.seed))
    print(
        f"{chosen.cuts} cuts, seed {chosen.seed}: accepted {len(outside.accepted)}, "
        f"executed {outside.attempts}, effects {sum(map(len, outside.effects.values()))}, "
        f"duplicates {len(outside.duplicates)}, lost {len(outside.lost)}, "
        f"integrity {outside.integrity or 'unknown'}"
    )
    whole = outside.over and outside.integrity == "ok" and outside.accepted
    return 0 if whole and not outside.lost and not outside.duplicates else 1


def cut_again_and_again(image: Path, cuts: int, dice: random.Random) -> Outside:
    outside = Outside()
    for number in range(1, cuts + 1):
        machine = Machine(image, str(number))
        outside.listen(machine, BOOT_S, until_ready=True)
        outside.listen(machine, dice.uniform(0.5, 4.0))
        outside.cut(machine)
        print(f"cut {number}: accepted {len(outside.accepted)} so far", flush=True)
    machine = Machine(image, "last")
    outside.listen(machine, 2 * BOOT_S)
    outside.cut(machine)
    return outside


if __name__ == "__main__":
    sys.exit(main())
