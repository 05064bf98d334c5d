"""ContextSSL: a context of pairs and actions shows which changes a prediction depends on."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_above, require_at_least, require_between, require_recorded
from ssl_inv.memories.progress import Progress
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import gather, rank
from ssl_inv.nn.heads import mlp
from ssl_inv.nn.losses import in_full_precision
from ssl_inv.objectives.base import ActionPrediction, Losses, Objective, Term
from ssl_inv.transforms import Convention, Group, Transform, keyed_random
from ssl_inv.views import Pair, Views


class ContextSSL(Progress, Objective):
    """Contextual self-supervised learning (Gupta, Wang, Wang, Jaakkola, Jegelka, "In-context symmetries", NeurIPS 2024,
    2405.18193).

    The batch is cut into sequences of pairs (x_i, y_i). With a_i the action from x_i to y_i, f the backbone and [.; .]
    for vectors side by side, a causal transformer reads

        [f(x_1); a_1], [f(y_1); 0], [f(x_2); a_2], [f(y_2); 0], ...

    Its output p_i at the token with the action must equal its output t_i at the token of y_i. With g an MLP and v_i the
    recorded parameters of y_i,

        L = NT-Xent(p, t; temperature) + latents mean (g(p_i / |p_i|) - v_i)^2.

    Each step uses one environment: a and v hold the numbers of its parameters, and zeros for all others. Views differ
    in the other parameters too, but no action tells them, so p and t can agree only by leaving them out. Earlier pairs
    thus show which changes count: the same weights become equivariant to these and invariant to the others. Most of the
    context is hidden at random; otherwise the tokens before an output would be enough to tell outputs apart.

    The authors predict the latents from t as well as from p, and compare outputs of 512 dimensions from a transformer
    of width 2,048; here both have one width. The following is our choice, since no published number was at hand to
    check it. A pair sees the pairs before it in its sequence and never its own other half, so t_i cannot be computed
    from x_i and a_i. Pairs are hidden whole, and p_i and t_i have different hidden pairs. Negatives are all pairs of
    the batch. Each feature is normalised by itself before the transformer. The transformer is GPT-2's without dropout,
    with torch's initial weights except small ones for positions.

    When:
        One encoder must serve tasks that want different symmetries, and the data record several kinds of change, such
        as rotation and colour of renderings: a few examples then choose between them without training. The paper's best
        R2 of rotations has a context of 126 tokens. Not where only one kind of change is recorded: SEN is then much the
        same without the transformer. Not for classes, where SimCLR is better in the paper.

    Args:
        environments: parameters of the actions, one list for each kind of step; kinds are drawn with equal chances. The
            predictor that retrieval measures uses the first one, after pairs of the last training batches.
        context: pairs in a sequence. The last sequence of a batch is shorter if the batch is not a multiple of it.
        masked: share of the earlier pairs that is hidden from a token.
        positions: `learned` ones for every token of a sequence, as in GPT-2. Outputs of one place are then alike, so
            the loss is hard only if a batch holds many sequences; it must hold at least one. With `none` a context is a
            set of pairs, of any size.
        width: of the transformer.
        layers: of the transformer.
        heads: of its attention.
        temperature: divides cosine similarities.
        clamped: whether cosines below 1e-7 count as 1e-7, as in the authors' code: pairs that point away from each
            other are then neither pushed further apart nor, if they are positives, pulled together.
        latents: weight of the second term.
        latents_of: over which numbers the second term is averaged: the step's `environment`, as in the authors' code,
            or `all`, where other environments have zeros as targets.
        latent_hidden: widths of the hidden layers of g.
        convention: form of the action vector. `seq-jepa` and `sie` follow these papers: quaternions with the sign of
            the product, and plain differences of hues. The recorded parameters of y always have the form that
            evaluation uses.
        seed: of the environments and of the hidden pairs.
    """

    told: Tensor
    recorded: Tensor
    memory_features: Tensor
    memory_actions: Tensor

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        environments: list[list[str]] = [["rotation"], ["floor_hue", "light_hue"]],
        context: int = 64,
        masked: float = 0.9,
        positions: Literal["learned", "none"] = "learned",
        width: int = 2048,
        layers: int = 3,
        heads: int = 4,
        temperature: float = 0.1,
        clamped: bool = False,
        latents: float = 5.0,
        latents_of: Literal["environment", "all"] = "environment",
        latent_hidden: list[int] = [1024, 1024],
        convention: Literal["canonical", "seq-jepa", "sie"] = "canonical",
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require_settings(environments, groups, context, masked, temperature, latents)
        self.parameters_used = list(dict.fromkeys(name for names in environments for name in names))
        self.convention: Convention = convention
        self.context, self.masked, self.temperature, self.seed = context, masked, temperature, seed
        self.latents, self.latents_of, self.least_cosine = latents, latents_of, 1e-7 if clamped else None
        # Learned positions are trained by whole sequences only.
        self.least_batch = max(2, context) if positions == "learned" else 2
        neutral = [Transform({name: groups[name].neutral(1)}, {name: groups[name]}) for name in self.parameters_used]
        actions = [one.relative(one).as_vector(convention=convention).shape[1] for one in neutral]
        values = [one.as_vector().shape[1] for one in neutral]
        self.register_buffer("told", _columns(environments, self.parameters_used, actions), persistent=False)
        self.register_buffer("recorded", _columns(environments, self.parameters_used, values), persistent=False)
        places = 2 * context if positions == "learned" else 0
        self.transformer = ContextTransformer(features, sum(actions), width, layers, heads, places)
        self.latent_head = mlp((width, *latent_hidden, sum(values)))
        self.register_buffer("memory_features", torch.zeros(context - 1, 2, features))
        self.register_buffer("memory_actions", torch.zeros(context - 1, sum(actions)))
        self._batches, self._remembered = 0, 0

    @property
    def plan(self) -> Pair:
        return Pair()

    @property
    def environment(self) -> int:
        """The number of this step's environment; the micro-batches of a step share it."""
        return int(keyed_random.bits(self.seed, self.steps_done, 0, count=1)[0, 0] % len(self.told))

    def get_extra_state(self) -> list[int]:
        """The steps done, by which everything random is drawn, and how many pairs are remembered: on the host, so that
        nothing waits.
        """
        return [self.steps_done, self._remembered]

    def set_extra_state(self, state: list[int]) -> None:
        """Continue after so many steps, with so many pairs."""
        self.steps_done, self._remembered = state
        self._batches = 0

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.advance(step, steps)
        self._batches = 0

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        x, y = (backbone(view.pixels) for view in views.views)
        action = views[0].transform.relative(views[1].transform).as_vector(self.parameters_used, self.convention)
        return self.feature_loss(x, y, action, views[1].transform.as_vector(self.parameters_used))

    def feature_loss(self, x: Tensor, y: Tensor, action: Tensor, latent: Tensor) -> Losses:
        """The terms of the loss.

        Args:
            x: features of the first views, `(B, D)`.
            y: features of the second views, `(B, D)`.
            action: all parameters of the action from x to y, `(B, K)`.
            latent: all recorded parameters of the second views, `(B, V)`.
        """
        pairs = torch.stack((gather(_normalised(x)), gather(_normalised(y))), dim=1)
        action = gather(action) * self.told[self.environment]
        predicted, target = self._outputs(pairs, action, len(x)).unbind(1)
        self._batches += 1  # each micro-batch of a step hides other pairs
        if self.training and self.environment == 0:
            self._remember(pairs, action)
        told, counted = self.latent_head(F.normalize(predicted, dim=1)), self.recorded[self.environment]
        error = losses.mean_squared_error(
            told * counted if self.latents_of == "environment" else told, latent * counted
        )
        if self.latents_of == "environment":
            error = error * (len(counted) / counted.sum())
        return {
            "nt_xent": Term(losses.nt_xent(predicted, target, self.temperature, self.least_cosine)),
            "latents": Term(error, self.latents),
        }

    def _outputs(self, pairs: Tensor, action: Tensor, share: int) -> Tensor:
        """Outputs `(share, 2, W)` for this process's share of all pairs `(N, 2, D)` and actions `(N, K)`.

        A process computes every sequence that holds one of its pairs. Only sequences across a border are computed more
        than once.
        """
        if self.transformer.places is not None and len(pairs) < self.context:
            problem = f"{self.context}, but a batch has {len(pairs)} pairs and trains no later positions"
            raise SettingError("context", f"{problem}; make it {len(pairs)}, the batch larger, or positions 'none'")
        length, first = min(self.context, len(pairs)), rank() * share
        start, stop = first // length * length, -(-(first + share) // length) * length
        spare = max(0, stop - len(pairs))
        pairs, action = F.pad(pairs[start:stop], (0, 0, 0, 0, 0, spare)), F.pad(action[start:stop], (0, 0, 0, spare))
        visible = visible_tokens(self._shown(start, stop, length).to(pairs.device, non_blocking=True))
        places = torch.arange(2 * length, device=pairs.device)
        outputs = self.transformer(
            _sequences(pairs, length), _sequences(_with_nothing(action), length), places, visible
        )
        pairs_of_outputs: Tensor = outputs.reshape(-1, 2, outputs.shape[2])
        return pairs_of_outputs[first - start : first - start + share]

    def _shown(self, start: int, stop: int, length: int) -> Tensor:
        """For each token of the pairs from `start` to `stop`: which pairs of its sequence are not hidden, `(S, 2 L,
        L)`.
        """
        key = (self.seed, self.steps_done, 1 + self._batches, np.arange(2 * start, 2 * stop))
        return torch.from_numpy(keyed_random.uniform(*key, count=length) >= self.masked).view(-1, 2 * length, length)

    @torch.no_grad()
    def _remember(self, pairs: Tensor, action: Tensor) -> None:
        for memory, new in ((self.memory_features, pairs), (self.memory_actions, action)):
            memory.copy_(torch.cat((memory, new.to(memory.dtype)))[len(new) :])
        self._remembered = min(self.context - 1, self._remembered + len(pairs))

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        """The prediction of the first environment after the remembered pairs.

        An embedding is the normalised output at y's token beside the normalised features, from which predictions begin.
        All embeddings have one length, and predictions are zero in place of the features, so cosines rank as the
        outputs' do.
        """
        features = self.memory_features.shape[2]

        def encode(pixels: Tensor) -> Tensor:
            normalised = _normalised(backbone(pixels))
            return torch.cat((self._in_context(normalised, None), normalised), dim=1)

        def move(embedding: Tensor, action: Tensor) -> Tensor:
            output = self._in_context(embedding[:, -features:], action * self.told[0])
            return F.pad(output, (0, features))

        return ActionPrediction(encode, move, self.parameters_used, self.convention)

    def _in_context(self, features: Tensor, action: Tensor | None) -> Tensor:
        """Normalised outputs `(B, W)` at tokens that each come next after the remembered pairs and do not see each
        other.

        Args:
            features: normalised, `(B, D)`.
            action: at the token of x, `(B, K)`; None for a token of y.
        """
        known = self._remembered
        memory = self.memory_actions[len(self.memory_actions) - known :]
        pairs = self.memory_features[len(self.memory_features) - known :].to(features.dtype)
        nothing = memory.new_zeros(len(features), memory.shape[1])
        tokens = torch.cat((pairs.flatten(0, 1), features))
        actions = torch.cat(
            (_with_nothing(memory).flatten(0, 1), nothing if action is None else action.to(memory.dtype))
        )
        order = torch.arange(len(tokens), device=features.device)
        places = torch.where(order < 2 * known, order, 2 * known + int(action is None))
        visible = torch.eye(len(tokens), dtype=torch.bool, device=features.device)
        visible[: 2 * known, : 2 * known] = visible_tokens(visible.new_ones(1, 2 * known, known))[0]
        visible[2 * known :, : 2 * known] = True
        return F.normalize(self.transformer(tokens[None], actions[None], places, visible[None])[0, 2 * known :], dim=1)


class ContextTransformer(nn.Module):
    """A pre-norm transformer over tokens; each token is the sum of a linear map of features and a linear map of an
    action.

    Args:
        features: D, dimensions of features.
        action: K, length of the action vector; tokens without an action have zeros.
        width: W, of the layers.
        layers: number of layers.
        heads: of attention.
        places: number of learned positions; 0 for none.

    Raises:
        ValueError: if the heads do not divide the width, or there is no layer.
    """

    def __init__(self, features: int, action: int, width: int, layers: int, heads: int, places: int) -> None:
        super().__init__()
        fits = heads >= 1 and width >= 1 and width % heads == 0
        require(fits, "heads", f"{heads}, which does not divide width, {width}")
        require_at_least(1, layers=layers)
        self.features, self.action = nn.Linear(features, width), nn.Linear(action, width, bias=False)
        self.places = nn.Embedding(places, width) if places else None
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, features: Tensor, actions: Tensor, places: Tensor, visible: Tensor) -> Tensor:
        """Outputs `(S, T, W)`.

        Args:
            features: `(S, T, D)`.
            actions: `(S, T, K)`.
            places: position of each token, `(T,)`.
            visible: which tokens each token sees, including itself, `(S, T, T)`.
        """
        tokens = self.features(features) + in_full_precision(self.action, actions)
        if self.places is not None:
            tokens = tokens + self.places(places)
        for layer in self.layers:
            tokens = layer(tokens, visible)
        return self.norm(tokens)  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """Attention and a GELU network of four times the width, each a residual branch on normalised tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        parts = self.queries_keys_values(self.first_norm(tokens)).unflatten(2, (3, self.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible.unsqueeze(1))
        tokens = tokens + self.mix(seen.transpose(1, 2).flatten(2))
        return tokens + self.network(self.second_norm(tokens))  # type: ignore[no-any-return]


def visible_tokens(shown: Tensor) -> Tensor:
    """Which tokens each token of a sequence of pairs sees: itself, and both tokens of every earlier pair that is shown
    to it.

    Args:
        shown: which pairs are shown to each token, `(S, 2 L, L)`, bool.

    Returns:
        `(S, 2 L, 2 L)`, bool.
    """
    tokens = torch.arange(shown.shape[1], device=shown.device)
    earlier = tokens // 2 < (tokens // 2).unsqueeze(1)
    return shown.repeat_interleave(2, dim=2) & earlier | torch.eye(len(tokens), dtype=torch.bool, device=shown.device)


def _normalised(features: Tensor) -> Tensor:
    """Features `(B, D)` with mean 0 and variance 1 in each row."""
    return F.layer_norm(features, features.shape[1:])


def _with_nothing(action: Tensor) -> Tensor:
    """An action `(N, K)` for the first token of each pair and zeros for the second, `(N, 2, K)`."""
    return torch.stack((action, torch.zeros_like(action)), dim=1)


def _sequences(pairs: Tensor, length: int) -> Tensor:
    """Pairs `(S L, 2, D)` as sequences of tokens `(S, 2 L, D)`."""
    return pairs.reshape(-1, 2 * length, pairs.shape[2])


def _columns(environments: list[list[str]], names: list[str], lengths: list[int]) -> Tensor:
    """For each environment, ones in the columns of its parameters and zeros elsewhere, `(E, K)`.

    Args:
        environments: names of parameters.
        names: of all parameters, in the order of their columns.
        lengths: number of columns of each.
    """
    parts = [
        torch.tensor([[float(name in told)] * length for told in environments])
        for name, length in zip(names, lengths, strict=True)
    ]
    return torch.cat(parts, dim=1)


def _require_settings(
    environments: list[list[str]],
    groups: Mapping[str, Group],
    context: int,
    masked: float,
    temperature: float,
    latents: float,
) -> None:
    problem = f"must be one or more lists of parameters, none of them empty, got {environments}"
    require(bool(environments) and all(environments), "environments", problem)
    for names in environments:
        require_recorded("environments", names, groups)
    require_at_least(1, context=context)
    require_between(0, 1, masked=masked)
    require_above(0, temperature=temperature)
    require_at_least(0, latents=latents)
