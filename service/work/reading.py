"""What a request asks for in the engine's terms, checked at the door so that little that is invalid ever waits for the device."""

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast, get_args

from kqv import Generation, Input, InputError, Job, Model, Sampling, Selection, TokenSequence, UnsupportedError
from kqv.attention.variants import Variant
from kqv.inputs import Truncate
from service.batching.queue import Size
from service.errors import AnswerTooLargeError, Location, located
from service.settings import Settings
from service.wire import requests
from service.wire.encoding import Form
from service.wire.tensors import booleans, floats
from service.wire.variants import Asked as AskedAttention
from service.wire.variants import check_global, read_global_projections, read_variant
from service.work.attending import PROJECTIONS, Attention, sizes_of
from service.work.passes import size_of

SMALLER_ANALYSIS = (
    'ask for weights "top" or "pooled", for fewer layers, heads or outputs, for a crop, or for fewer sequences at once'
)
SMALLER_GENERATION = 'ask for weights "top" or "none", for fewer layers, heads or new tokens, or for fewer sequences at once'
SMALLER_ATTENTION = "leave steps out of include, or send fewer queries and keys at once"
HEADS = ("q", "k", "v")
VECTORS = ("x", "context", "num_heads", *PROJECTIONS, "seed")
TENSORS = (*HEADS, "x", "context", *PROJECTIONS, "bias")

JobT = TypeVar("JobT")


@dataclass(frozen=True)
class Asked(Generic[JobT]):
    """A request that has been read."""

    jobs: list[JobT]
    sizes: list[Size]
    """What each job takes."""
    answer_bytes: int
    """How long the answer will be, about."""

    @property
    def tokens(self) -> int:
        """Of all jobs together."""
        return sum(size.tokens for size in self.sizes)


def read_analysis(body: requests.AnalyzeRequest, model: Model, settings: Settings) -> list[Job]:
    """A job for each sequence. Raises `InputError` at the first wrong field."""
    selection = read_selection(body)
    jobs = [Job(sequence, selection) for sequence in read_sequences(body.input, model, body.truncate, settings)]
    for job in jobs:
        if lacks_target(job.sequence, model):  # a crop, or a window, may be one of the target, which nobody knows yet
            model.scopes(job.sequence, replace(selection, queries=None, keys=None, attention=None, compare=False))
    return jobs


def size_up(jobs: list[Job], model: Model, form: Form, settings: Settings, *, is_padded: bool = False) -> Asked[Job]:
    """The jobs, which have their targets, and how large they are. Raises `AnswerTooLargeError` for too much."""
    for job in jobs:
        check_held(job, model, settings)
    sizes = [size_of(job, model, form.bytes_per_number) for job in jobs]
    each = [size.answer_bytes for size in sizes]
    answer_bytes = len(each) * max(each) if is_padded else sum(each)
    check_answer(answer_bytes, form, settings, SMALLER_ANALYSIS)
    return Asked(jobs, sizes, answer_bytes)


def check_held(job: Job, model: Model, settings: Settings) -> None:
    """Raise `AnswerTooLargeError` where another attention would take more memory than `/v1/attend` may."""
    for scope in model.scopes(*job).values() if job.selection.attention else ():
        if scope.attention is None:
            continue
        held = scope.attention.held((model.config.num_heads, *scope.lengths, model.config.d_head))
        if held > settings.max_attend_numbers:
            message = f"{scope.attention.kind} takes {held} numbers in memory, more than the {settings.max_attend_numbers} allowed"
            raise AnswerTooLargeError(f"{message}; make it smaller, or send shorter sequences")


def lacks_target(sequence: TokenSequence, model: Model) -> bool:
    """Whether the model has to write first what its decoder reads."""
    return model.config.architecture == "encoder-decoder" and sequence.target is None


def check_count(sequences: int, settings: Settings) -> None:
    """Raise `InputError` for more sequences than one request may hold."""
    if sequences > settings.max_sequences:
        message = f"a request holds at most {settings.max_sequences} sequences, not {sequences}; send several requests"
        raise InputError(message, ("input",))


def read_selection(body: requests.AnalyzeRequest) -> Selection:
    """What is to be kept of every sequence."""
    groups = None if body.attention == "dense" else body.attention.groups
    return Selection(
        layers=None if body.layers is None else tuple(body.layers),
        heads=None if body.heads is None else tuple(body.heads),
        weights=body.weights,
        top_k=body.top_k,
        pool=body.pool,
        queries=body.queries,
        keys=body.keys,
        diagnostics=tuple(body.diagnostics) if isinstance(body.diagnostics, list) else body.diagnostics,
        per_query=body.per_query,
        outputs=tuple(body.outputs),
        attention=read_variant(body.attention),
        groups=None if groups is None else tuple(groups),
        compare=body.compare,
    )


def read_generation(body: requests.GenerateRequest, model: Model, form: Form, settings: Settings) -> Asked[Generation]:
    """A generation for each sequence. Raises as `read_analysis` and `size_up` do."""
    sampling, selection = read_sampling(body), read_rows(body)
    sequences = read_sequences(body.input, model, body.truncate, settings)
    places = [location for location, _ in placed(body.input)]
    generations = [
        model.begin(sequence, sampling, selection, location) for sequence, location in zip(sequences, places, strict=True)
    ]
    numbers = sum(
        model.answer_numbers(as_read(generation, model, sampling.max_new_tokens), selection) for generation in generations
    )
    answer_bytes = (1 + body.stream) * numbers * form.bytes_per_number  # a stream says all twice
    check_answer(answer_bytes, form, settings, SMALLER_GENERATION)
    return Asked(generations, [first_size(generation, model) for generation in generations], answer_bytes)


def read_sampling(body: requests.GenerateRequest) -> Sampling:
    """How the next token is chosen."""
    return Sampling(
        max_new_tokens=body.max_new_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
    )


def read_rows(body: requests.GenerateRequest) -> Selection:
    """What is to be kept of each token's attention."""
    return Selection(
        layers=None if body.layers is None else tuple(body.layers),
        heads=None if body.heads is None else tuple(body.heads),
        weights=body.weights,
        diagnostics=tuple(body.diagnostics) if isinstance(body.diagnostics, list) else body.diagnostics,
        per_query=body.per_query,
        outputs=(),
    )


def as_read(generation: Generation, model: Model, new_tokens: int = 0) -> TokenSequence:
    """A sequence of as many tokens as will have been read after so many new ones."""
    read = TokenSequence(ids=(*generation.read, *(0,) * new_tokens))
    return replace(generation.source, target=read) if model.config.architecture == "encoder-decoder" else read


def first_size(generation: Generation, model: Model) -> Size:
    """What the first step takes: it reads the prompt, and what an encoder reads."""
    return size_of(Job(as_read(generation, model), generation.selection), model)


def read_sequences(given: requests.Input, model: Model, truncate: Truncate, settings: Settings) -> list[TokenSequence]:
    """All sequences of a request. Raises `InputError` at the first wrong one."""
    sequences = placed(given)
    check_count(len(sequences), settings)
    return [read_sequence(sequence, location, model, truncate) for location, sequence in sequences]


def placed(given: requests.Input) -> list[tuple[Location, requests.Sequence]]:
    """Each sequence of a request, and where it stands there."""
    if isinstance(given, list) and not (given and isinstance(given[0], int)):
        return [(("input", index), sequence) for index, sequence in enumerate(cast(list[requests.Sequence], given))]
    return [(("input",), given)]


def read_sequence(given: requests.Sequence, location: Location, model: Model, truncate: Truncate) -> TokenSequence:
    """As the model reads it. A bare text or list of ids has no field of its own, so an error's location doesn't name one."""
    if isinstance(given, requests.SequenceObject):
        with located(*location):
            return model.read(read_object(given), truncate)
    with located(*location, inner=1):
        return model.read(given, truncate)


def read_object(given: requests.SequenceObject) -> Input:
    embeddings = None if given.embeddings is None else floats(given.embeddings, "embeddings")
    return Input(text=given.text, tokens=given.tokens, embeddings=embeddings, pair=given.pair, target=given.target)


def read_texts(body: requests.TokenizeRequest, model: Model, settings: Settings) -> list[dict[str, Any]]:
    """The fields of each text's answer. Raises `InputError`."""
    if model.tokenizer is None:
        raise UnsupportedError("this model came without a tokenizer.json", ("model",))
    texts = [body.input] if isinstance(body.input, str) else body.input
    check_count(len(texts), settings)
    if body.pair is not None and isinstance(body.input, list):
        raise InputError("pair stands beside a single text, not beside a list", ("pair",))
    encodings = [model.tokenizer.encode(text, body.pair) for text in texts]
    return [
        {"token_ids": each.ids, "tokens": each.tokens, "offsets": each.offsets, "token_types": each.token_types}
        for each in encodings
    ]


def read_attention(body: requests.AttendRequest, form: Form, settings: Settings) -> Asked[Attention]:
    """Attention on the request's tensors. Raises `InputError` at the first wrong field, `AnswerTooLargeError` for too much."""
    check_form(body)
    given = {name: getattr(body, name) for name in TENSORS}
    tensors = {name: floats(value, name) for name, value in given.items() if value is not None}
    options: dict[str, Any] = {"scale": body.scale}
    if isinstance(body.mask, str):
        options["mask"] = body.mask
    else:
        tensors["mask"] = booleans(body.mask, "mask")
    variant = read_variant(body.attention)
    tensors |= read_global_projections(body.attention)
    include = read_include(body, variant)
    attention = Attention(tensors, options, body.num_heads or 1, body.seed, include, variant, body.compare)
    sizes = sizes_of(attention)
    if sizes.held > settings.max_attend_numbers:
        message = f"this takes {sizes.held} numbers in memory, more than the {settings.max_attend_numbers} allowed"
        smaller = "" if variant is None else f", leave maps and compare out, or make {variant.kind} smaller"
        raise AnswerTooLargeError(f"{message}; send fewer queries and keys at once, or narrower vectors{smaller}")
    answer_bytes = sizes.shown(include) * form.bytes_per_number
    check_answer(answer_bytes, form, settings, SMALLER_ATTENTION)
    return Asked([attention], [Size(sizes.queries + sizes.keys, sizes.map, answer_bytes)], answer_bytes)


def read_include(body: requests.AttendRequest, variant: Variant | None) -> frozenset[requests.Step]:
    """The steps to show. Raises `InputError` for one that this attention doesn't have."""
    if body.include is None:
        return frozenset(get_args(requests.Step))
    lacking = () if variant is None else ("scores",) if variant.scores_pairs else ("scores", "scaled_scores")
    for place, step in enumerate(body.include):
        if variant is not None and step in lacking:
            message = f"{variant.kind} never makes {step}"
            raise InputError(f"{message} of all pairs of tokens; leave it out, or look at the weights", ("include", place))
    return frozenset(body.include)


def check_form(body: requests.AttendRequest) -> None:
    """Raise `InputError` unless the request is of one of the two forms, and whole."""
    heads, vectors, projections = (
        [name for name in names if getattr(body, name) is not None] for names in (HEADS, VECTORS, PROJECTIONS)
    )
    if heads and vectors:
        raise InputError(f"{vectors[0]} can't stand beside {heads[0]}: give q, k and v, or x and what belongs to it", (vectors[0],))
    if not heads and not vectors:
        raise InputError("give q, k and v, or x with num_heads and w_q, w_k, w_v, w_o or a seed")
    for name in HEADS if heads else ("x", "num_heads"):
        if getattr(body, name) is None:
            raise InputError(f"{name} is missing; {' and '.join(heads or vectors)} can't do without it", (name,))
    if vectors and len(projections) != (4 if body.seed is None else 0):
        raise InputError("x needs all of w_q, w_k, w_v and w_o, or in place of all of them a seed", ("seed",))
    check_global(body.attention, of_vectors=bool(vectors))
    check_compare(body.compare, body.attention)


def check_compare(compare: bool, attention: AskedAttention) -> None:
    """Raise `InputError` where there is nothing to compare."""
    if compare and attention == "dense":
        message = "compare gives the distance of another attention from dense; name one in attention, or leave compare out"
        raise InputError(message, ("compare",))


def check_answer(predicted_bytes: int, form: Form, settings: Settings, advice: str) -> None:
    """Raise `AnswerTooLargeError` for an answer longer than allowed."""
    limit, numbers = settings.max_answer_bytes, predicted_bytes // form.bytes_per_number
    if predicted_bytes > limit:
        size = f"about {predicted_bytes / (1 << 20):.1f} MiB ({numbers} numbers), more than the {limit / (1 << 20):.1f} MiB allowed"
        raise AnswerTooLargeError(f"the answer would be {size}; {advice}")
