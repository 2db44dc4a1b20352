"""Names of the authors' published checkpoints and ours: one table, read in both directions.

``{i}`` and ``{j}`` stand for whole numbers, ``{i-1}`` for one less. A template that ends in a dot is a prefix, and what stands
behind it is named alike on both sides; any other template is a whole name. The first rule that fits a name counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

__all__ = ['FEATURE_STAGE_RULES', 'REGNET_STAGE_RULES', 'SHARED_RULES', 'KeyRule', 'rename']

_PLACEHOLDER = re.compile(r'\{([ij])(?:-(\d))?\}')


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Regular expression of a template; a placeholder that occurs twice must hold the same number."""
    seen: set[str] = set()
    parts, end = [], 0
    for match in _PLACEHOLDER.finditer(template):
        parts.append(re.escape(template[end : match.start()]))
        name, end = match[1], match.end()
        parts.append(f'(?P={name})' if name in seen else rf'(?P<{name}>\d+)')
        seen.add(name)
    parts.append(re.escape(template[end:]))
    return re.compile(''.join(parts) + ('' if template.endswith('.') else '$'))


@cache
def _offsets(template: str) -> dict[str, int]:
    return {match[1]: int(match[2] or 0) for match in _PLACEHOLDER.finditer(template)}


@dataclass(frozen=True)
class KeyRule:
    """One row of the table.

    Attributes:
        reference: Template of the authors' name.
        ours: Template of our name.
    """

    reference: str
    ours: str

    def translate(self, key: str, source: str, target: str) -> str | None:
        """``key`` from the template ``source`` to ``target``; ``None`` where it does not fit."""
        match = _pattern(source).match(key)
        if match is None:
            return None
        offsets = _offsets(source)
        numbers = {name: int(value) + offsets[name] for name, value in match.groupdict().items()}
        if any(numbers[name] < offset for name, offset in _offsets(target).items()):
            return None
        head = _PLACEHOLDER.sub(lambda found: str(numbers[found[1]] - int(found[2] or 0)), target)
        return head + key[match.end() :]

    def to_ours(self, key: str) -> str | None:
        """Our name for a reference name, or ``None``."""
        return self.translate(key, self.reference, self.ours)

    def to_reference(self, key: str) -> str | None:
        """The reference's name for ours, or ``None``."""
        return self.translate(key, self.ours, self.reference)


SHARED_RULES = (
    KeyRule('latent', 'latent_branch.latent'),
    KeyRule('cnn_stem.', 'feature_branch.stem.'),
    KeyRule('dwc{i}_x2z.', 'latent_branch.x2z.{i-1}.dwc.'),
    KeyRule('cross_att{i}_x2z.mlp.', 'latent_branch.x2z.{i-1}.cross_attn.mlp.'),
    KeyRule('cross_att{i}_x2z.cross_attn.', 'latent_branch.x2z.{i-1}.cross_attn.'),
    KeyRule('cross_att{i}_z2x.mlp.', 'latent_branch.z2x.{i-2}.cross_attn.mlp.'),
    KeyRule('cross_att{i}_z2x.cross_attn.', 'latent_branch.z2x.{i-2}.cross_attn.'),
    KeyRule('last_cross_att_z2x.mlp.', 'latent_branch.last_z2x.cross_attn.mlp.'),
    KeyRule('last_cross_att_z2x.cross_attn.', 'latent_branch.last_z2x.cross_attn.'),
    KeyRule('self_att{i}.{j}.mlp.', 'latent_branch.blocks.{i-1}.{j}.mlp.'),
    KeyRule('self_att{i}.{j}.self_attn.', 'latent_branch.blocks.{i-1}.{j}.'),
    KeyRule('token_mixer.{i}.', 'latent_branch.mixers.{i}.'),
    KeyRule('token_expander.{i}.', 'latent_branch.expanders.{i}.'),
    KeyRule('early_classifier3.', 'exits.0.classifier.'),
    KeyRule('isc3.', 'exits.1.fkt.'),
    KeyRule('classifier_att.', 'exits.1.classifier.'),
    KeyRule('classifier_cnn.', 'exits.2.classifier.'),
    KeyRule('isc4.', 'exits.3.fkt.'),
    KeyRule('classifier_merge.', 'exits.3.classifier.'),
)
FEATURE_STAGE_RULES = (KeyRule('cnn_body_stage{i}.', 'feature_branch.stages.{i-1}.'),)
REGNET_STAGE_RULES = (KeyRule('cnn_body.block{i}.block{i}-{j}.', 'feature_branch.stages.{i-1}.{j}.'),)


def rename(key: str, rules: Iterable[KeyRule], to_reference: bool) -> str | None:
    """The other side's name by the first rule that fits, or ``None``."""
    for rule in rules:
        name = rule.to_reference(key) if to_reference else rule.to_ours(key)
        if name is not None:
            return name
    return None
