"""The judge of a benchmark: its rules over what the models at hand see."""

from collections.abc import Callable, Sequence

from PIL import Image

from danqing.errors import DataError
from danqing.evaluation.benchmarks.benchmark import Variant
from danqing.evaluation.items import Atom, Item, Made, content_key
from danqing.scoring.looking import ROLES, Look, Looks, needed

Atoms = Callable[[Item, Image.Image, Looks, Variant], tuple[Atom, ...]]
"""What the rules of a benchmark say of a picture; at least one atom."""


class BenchmarkJudge:
    """Looks with the models it is given; another model or another rule is another version."""

    def __init__(
        self, name: str, rules: str, roles: Sequence[str], atoms: Atoms, looks: Looks, variant: Variant
    ) -> None:
        """`rules` is the version of `atoms`; raises ResourceError when one of `roles` is empty."""
        self._atoms, self._looks, self._variant = atoms, looks, variant
        chosen: dict[str, Look] = {role: needed(getattr(looks, ROLES[role]), role) for role in roles}
        seen = {role: [look.name, look.version] for role, look in chosen.items()}
        self.name = name
        sure = list(looks.sure) if "open-detector" in chosen else []
        self.version = content_key({"rules": rules, "variant": variant, "looks": seen, "sure": sure})[:12]
        self.models = {role: look.name for role, look in chosen.items()}

    def judge(self, made: Made, item: Item) -> tuple[Atom, ...]:
        """Return the atoms of a picture; raises DataError for a text."""
        if isinstance(made, str):
            raise DataError(f"expected a picture for {item.row}, found a text")
        return self._atoms(item, made.convert("RGB"), self._looks, self._variant)
