"""The modules of an encoder whose integers are carried in fp32, for targets without products of integers.

Owns: making them from the modules of integers, whose place they take, and the proof that no size makes fp32 round.
Knows nothing of scales' origin, nor of targets. They give the integers of the modules that they are made from, bit for
bit: with --auto-cast matmul, too, since each operand of a matrix product is a whole number of at most 8 bits, which
bf16, fp16 and tf32 hold exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from neuronbert.encoder.model import Encoder
from neuronbert.errors import IntegerRangeError, UnsupportedFeatureError
from neuronbert.integers import carried, dequantized
from neuronbert.integers.arithmetic import IntegerArithmetic
from neuronbert.integers.carried import Constants, Ratio
from neuronbert.integers.limbs import EXACT, Limbs

if TYPE_CHECKING:
    from neuronbert.integers.embeddings import IntegerEmbeddings
    from neuronbert.integers.layers import IntegerAttention, IntegerIntermediate, IntegerOutput
    from neuronbert.integers.norms import Norm
    from neuronbert.integers.products import Products

_NORM_BITS: Final = 22
_WORD_BITS: Final = 16


class CarriedProducts(nn.Module):
    """A linear layer's sums.

    Args:
        site: The layer.
    """

    weight: Tensor

    def __init__(self, site: Products) -> None:
        super().__init__()
        self.register_buffer("weight", site.weight)
        self.bias = Constants(site.bias.tolist())
        self.pieces = carried.pieces(site.weight)
        self.most = int(site.most.max())

    def forward(self, hidden: Tensor) -> Limbs:
        """The sums of 8 bits, (batch, sequence, k): (batch, sequence, n)."""
        return carried.products(hidden, self.weight, self.bias(), self.pieces).within(-self.most, self.most)


class CarriedNorm(nn.Module):
    """LayerNorm.

    Args:
        site: The one on integers.
    """

    def __init__(self, site: Norm) -> None:
        super().__init__()
        self.shift = site.shift
        self.real = site if site.real else None
        if self.real is None:
            self.bias, self.by = Constants(site.bias.tolist()), Ratio(site.by)

    def forward(self, total: Tensor) -> Tensor:
        """8 bits of 22."""
        if self.real is not None:
            return dequantized.layer_norm(total, self.real, self.real.scales)
        return _narrow(self.by(carried.layer_norm(total, self.bias(), self.shift)))


class CarriedEmbeddings(nn.Module):
    """The sum of three tables, normalized.

    Args:
        site: The embeddings on integers.
    """

    word: Tensor
    token_type: Tensor
    position: Tensor

    def __init__(self, site: IntegerEmbeddings) -> None:
        super().__init__()
        self.padding, self.scale = site.padding, site.scale
        for name in ("word", "token_type", "position"):
            self.register_buffer(name, getattr(site, name))
        self.by_word, self.by_token_type, self.by_position = (
            Ratio(by) for by in (site.by_word, site.by_token_type, site.by_position)
        )
        self.norm = CarriedNorm(site.norm)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """8 bits, (batch, sequence, hidden), at `scale`."""
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if position_ids is None:
            position_ids = self._positions(input_ids)
        words = self.by_word(_looked_up(self.word, input_ids))
        types = self.by_token_type(_looked_up(self.token_type, token_type_ids))
        places = self.by_position(_looked_up(self.position, position_ids))
        together = Limbs.of(_clamped(words + types, _WORD_BITS), *_interval(_WORD_BITS))
        result: Tensor = self.norm(_clamped(together + places, _WORD_BITS))
        return result

    def _positions(self, input_ids: Tensor) -> Tensor:
        if self.padding is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        told = (input_ids != self.padding).to(torch.float32)  # a sum of integers has 64 bits, whatever it is asked for
        return (torch.cumsum(told, 1) * told + self.padding).to(input_ids.dtype)


class CarriedAttention(nn.Module):
    """The projections, the scores, their softmax, and what is gathered by it.

    Args:
        site: The attention on integers.
    """

    def __init__(self, site: IntegerAttention) -> None:
        super().__init__()
        self.attention_head_size = site.attention_head_size
        if self.attention_head_size * 2**14 > EXACT:
            problem = f"a score adds {self.attention_head_size} products up, and fp32 has room for {EXACT // 2**14}"
            raise IntegerRangeError("attention", problem)
        if not site.real and not carried.softmax_fits(self.attention_head_size, site.constants[0]):
            problem = f"fp32 rounds the differences of scores of {self.attention_head_size} products at so fine a scale"
            raise IntegerRangeError("attention", problem)
        self.query, self.key, self.value, self.scale = site.query, site.key, site.value, site.scale
        self.scores, self.real, self.constants = site.scores, site.real, site.constants
        self.products, self.by, self.by_context = CarriedProducts(site.products), Ratio(site.by), Ratio(site.by_context)

    def forward(self, hidden: Tensor) -> Tensor:
        """Query, key and value side by side: 8 bits, (batch, sequence, 3 * hidden)."""
        return _narrow(self.by(self.products(hidden)))

    def products_of(self, query: Tensor, key: Tensor) -> Tensor:
        """Their scores, at `scores`."""
        return torch.matmul(query, key.transpose(2, 3))

    def probabilities(self, scores: Tensor, attended: Tensor) -> Tensor:
        """0 to 255, at PROBABILITY.

        Raises:
            UnsupportedFeatureError: the rows are too long for exact sums.
        """
        if scores.shape[-1] > carried.TOKENS:
            reason = f"where integers are carried in fp32, rows have at most {carried.TOKENS} tokens"
            raise UnsupportedFeatureError("sequence_length", int(scores.shape[-1]), reason)
        if self.real:
            return dequantized.softmax(scores, attended, self.scores)
        return carried.softmax(scores, attended, self.constants)

    def gathered(self, probabilities: Tensor, value: Tensor) -> Tensor:
        """8 bits, (batch, sequence, hidden), at `scale`."""
        most = 255 * 128 * int(value.shape[2])
        heads = torch.matmul(probabilities, value).transpose(1, 2)
        return _narrow(self.by_context(Limbs.of(heads.reshape(*heads.shape[:2], -1), -most, most)))


class CarriedIntermediate(nn.Module):
    """A linear layer and GELU.

    Args:
        site: The one on integers.
    """

    scales: Tensor

    def __init__(self, site: IntegerIntermediate) -> None:
        super().__init__()
        self.dense, self.scale, self.real = CarriedProducts(site.dense), site.scale, site.real
        if self.real:
            self.register_buffer("scales", site.scales)
            return
        self.edge, self.least, self.one = (Constants(row) for row in site.constants.tolist())
        self.by = Ratio(site.by)

    def forward(self, hidden: Tensor) -> Tensor:
        """8 bits, (batch, sequence, intermediate), at `scale`."""
        sums = self.dense(hidden)
        if self.real:
            return dequantized.gelu(sums.rounded(), self.scales, self.scale)
        return _narrow(self.by(carried.gelu(sums, self.edge(), self.least(), self.one())))


class CarriedOutput(nn.Module):
    """A linear layer, the residual, and LayerNorm of their sum.

    Args:
        site: The one on integers.
    """

    def __init__(self, site: IntegerOutput) -> None:
        super().__init__()
        self.dense, self.norm, self.scale = CarriedProducts(site.dense), CarriedNorm(site.norm), site.scale
        self.by, self.by_residual = Ratio(site.by), Ratio(site.by_residual)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """8 bits, (batch, sequence, hidden), at `scale`."""
        total = self.by(self.dense(hidden)) + self.by_residual(_bytes(residual))
        result: Tensor = self.norm(_clamped(total, _NORM_BITS))
        return result


def carry(head: Any) -> Any:
    """Carry the integers of a head's encoder in fp32.

    Args:
        head: What contains an encoder with modules of integers; they are replaced.

    Raises:
        IntegerRangeError: a size leaves fp32 no room for exact sums.
    """
    for encoder in head.modules():
        if isinstance(encoder, Encoder) and isinstance(encoder.arithmetic, IntegerArithmetic):
            try:
                _carry_encoder(encoder)
            except OverflowError as error:
                raise IntegerRangeError("encoder", "a constant of it is too wide to be carried in fp32") from error
    return head


def _carry_encoder(encoder: Any) -> None:
    encoder.embeddings = CarriedEmbeddings(encoder.embeddings)
    for layer in encoder.encoder.layer:
        layer.attention.self = CarriedAttention(layer.attention.self)
        layer.attention.output = CarriedOutput(layer.attention.output)
        layer.intermediate = CarriedIntermediate(layer.intermediate)
        layer.output = CarriedOutput(layer.output)


def _interval(bits: int) -> tuple[int, int]:
    return -(1 << bits - 1), (1 << bits - 1) - 1


def _clamped(values: Limbs, bits: int) -> Tensor:
    return values.clamp(*_interval(bits))


def _narrow(values: Limbs) -> Tensor:
    return _clamped(values, 8)


def _bytes(values: Tensor) -> Limbs:
    return Limbs.of(values, -128, 127)


def _looked_up(table: Tensor, places: Tensor) -> Limbs:
    return _bytes(nn.functional.embedding(places, table).to(torch.float32))
