"""What prompts lose in another language: the same meaning asked for in English and elsewhere."""

from dataclasses import dataclass
from typing import Final

from danqing.data.concepts import LANGUAGES
from danqing.evaluation.report.table import shown
from danqing.evaluation.results import Entrant, Results, Row
from danqing.evaluation.statistics import Comparison, Observation, compare_rows, holm

ENGLISH: Final = "en"
ALL: Final = "all"
"""In place of a language: the mean over all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageChange:
    """A language minus English, on meanings that one system was asked for in both."""

    benchmark: str
    label: str
    """Of the system."""
    language: str
    """Code of the language, or `ALL`."""
    comparison: Comparison
    """Its p value is adjusted over the languages (Holm)."""

    def __str__(self) -> str:
        return f"{self.label}, {self.language} minus {ENGLISH}: {self.comparison}"


def language_changes(results: Results) -> list[LanguageChange]:
    """Return what each system of a benchmark loses or gains in each language, paired by meaning.

    Items that share a cluster mean the same. Rows are compared whose names are equal or differ in their
    language alone; those with a unit are left out. Empty where nothing was asked in two languages.
    """
    return [change for entrant in shown(results) for change in _changes(results, entrant)]


def _changes(results: Results, entrant: Entrant) -> list[LanguageChange]:
    told: dict[str, list[Observation]] = {}
    for row in results.rows:
        if not row.unit and row.counts:
            for language, seen in _observed(results, entrant, row):
                told.setdefault(language, []).append(seen)
    english = told.pop(ENGLISH, [])
    alone = {language: compare_rows([some], [english]) for language, some in told.items()}
    found = {language: one for language, one in sorted(alone.items()) if one is not None}
    if not found:
        return []
    adjusted = holm([one.p for one in found.values()])
    changes = {language: one.adjusted(p) for (language, one), p in zip(found.items(), adjusted, strict=True)}
    if len(found) > 1:
        whole = compare_rows([told[language] for language in found], [english] * len(found))
        changes |= {} if whole is None else {ALL: whole}
    return [
        LanguageChange(benchmark=results.name, label=entrant.label, language=language, comparison=one)
        for language, one in changes.items()
    ]


def _observed(results: Results, entrant: Entrant, row: Row) -> list[tuple[str, Observation]]:
    """Return what was observed in a row with its language, under the name of what it means."""
    answers = {one.item.id: one.item for one in results.of(entrant, row)}
    found = []
    for seen in results.observations(entrant, row):
        language = answers[seen.item].language
        meaning = f"{_family(row.name)}: {seen.cluster}"
        found.append((language, seen._replace(item=meaning)))
    return found


def _family(row: str) -> str:
    """Return the name of a row without the language at its end."""
    head, _, last = row.rpartition("-")
    return head if head and last in (*LANGUAGES, "others") else row
