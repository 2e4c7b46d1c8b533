"""Attention of a whole packed batch in one launch, with the statistics of every query's softmax beside its output.

The same numbers as kqv/attention/streaming.py, fused for a GPU. A program has a tile of rows of one sequence, and one head of its
keys; a row is one query of one of the query heads that share that head, so that they share each tile of keys as it is read. The
tiles of keys go by from the last to the first, since what lies near a query mostly weighs most: the maximum, and the largest
weights, are then found early. As in FlashAttention (Dao et al., 2022) a further tile rescales what there is to the larger maximum.
Scores are in units of ln 2, sums in float32, whatever the inputs are.
"""

import triton
import triton.language as tl

NOTHING = tl.constexpr(-1e30)
"""A masked score."""
HIDDEN = tl.constexpr(-1e29)
"""What masked scores lie under."""
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
TOP = tl.constexpr(8)
"""How many of a row's largest weights are kept."""


@triton.jit
def rank(e, KEYS: tl.constexpr):
    """Numbers that are in order as `e` is, and differ within a row: e's bits, and in place of the last few of them its column."""
    columns = tl.arange(0, KEYS)
    return (e.to(tl.int32, bitcast=True) & (-KEYS)) | columns[None, :]


@triton.jit
def keep_top(top, e, KEYS: tl.constexpr):
    """The largest of `top` [ROWS, TOP] and of e [ROWS, KEYS], in no order; e's are cut to 24 − log₂ KEYS binary digits."""
    ranks = rank(e, KEYS)
    largest = tl.max(ranks, 1)
    candidate = (largest & (-KEYS)).to(tl.float32, bitcast=True)
    least = tl.min(top, 1)
    slots = tl.arange(0, TOP)
    for _ in tl.static_range(TOP):
        if tl.max((candidate > least).to(tl.int32), 0) > 0:
            slot = tl.argmin(top, 1)
            enters = (candidate > least)[:, None] & (slots[None, :] == slot[:, None])
            top = tl.where(enters, candidate[:, None], top)
            largest = tl.max(tl.where(ranks < largest[:, None], ranks, 0), 1)
            candidate = (largest & (-KEYS)).to(tl.float32, bitcast=True)
            least = tl.min(top, 1)
    return top


@triton.jit
def sum_top(top, count):
    """The sum of the `count` largest of `top` [ROWS, TOP]."""
    slots = tl.arange(0, TOP)
    earlier = (slots[None, :] < slots[:, None])[None, :, :]
    ahead = (top[:, None, :] > top[:, :, None]) | ((top[:, None, :] == top[:, :, None]) & earlier)
    return tl.sum(tl.where(tl.sum(ahead.to(tl.int32), 2) < count, top, 0.0), 1)


@triton.jit
def read(at, inside, there, WIDTH: tl.constexpr, DEPTH: tl.constexpr, PARTIAL: tl.constexpr, WIDEN: tl.constexpr):
    """A tile of keys or values; `inside` the width and `there` at all is what isn't 0."""
    if PARTIAL:
        tile = tl.load(at, mask=inside & there, other=0.0)
    elif WIDTH < DEPTH:
        tile = tl.load(at, mask=inside, other=0.0)
    else:
        tile = tl.load(at)
    return tile.to(tl.float32) if WIDEN else tile


@triton.jit
def relate(e, key, ids_at, special_at, num_ids, num_marks, place, own_id, PARTIAL: tl.constexpr):
    """Σe of a tile's keys that are special, that hold a row's own token, that follow such a one and come before it; and Σe·|i − j|.

    Without PARTIAL all keys come before all rows.
    """
    marked = tl.load(special_at + key, mask=key < num_marks, other=0).to(tl.float32)
    ids = tl.load(ids_at + key, mask=key < num_ids, other=-1)
    before = tl.load(ids_at + key - 1, mask=(key < num_ids) & (key > 0), other=-1)
    again, followed = own_id[:, None] == ids[None, :], own_id[:, None] == before[None, :]
    offset = place[:, None] - key.to(tl.float32)[None, :]
    if PARTIAL:
        again, followed, offset = again & (offset != 0), followed & (offset > 0), tl.abs(offset)
    special, distance = tl.sum(e * marked[None, :], 1), tl.sum(e * offset, 1)
    return special, tl.sum(tl.where(again, e, 0.0), 1), tl.sum(tl.where(followed, e, 0.0), 1), distance


@triton.jit
def see(
    first,
    last,  # the tiles of keys to look at, from last − 1 down to first
    q,  # [ROWS, DEPTH]
    output,  # [ROWS, DEPTH]: Σ e·v
    maximum,
    total,
    weighted,
    squares,  # of each row: m, Σe, Σe·(score − m), Σe²
    distance,
    special,
    duplicate,
    induction,
    row_sum,
    forbidden,
    top,
    place,
    low,
    high,
    own_id,
    biases,  # of each row: where it stands, which keys it sees, its token, where its biases are
    keys_at,
    values_at,
    ids_at,
    special_at,  # of the sequence
    num_keys,
    key_stride,
    value_stride,
    num_ids,
    num_marks,
    scale,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    KEYS: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    LOOK: tl.constexpr,
    WIDEN: tl.constexpr,
    PARTIAL: tl.constexpr,  # whether some of the keys are masked for some of the rows, or don't come before them
):
    """Let the rows see some tiles of keys."""
    depth, columns = tl.arange(0, DEPTH), tl.arange(0, KEYS)
    for step in range(first, last):
        base = (first + last - 1 - step) * KEYS
        key = base + columns
        there = key < num_keys
        k_at = keys_at + base.to(tl.int64) * key_stride + (columns[None, :] * key_stride + depth[:, None])
        v_at = values_at + base.to(tl.int64) * value_stride + (columns[:, None] * value_stride + depth[None, :])
        if ALIGNED:
            k_at, v_at = tl.multiple_of(k_at, (16, 1)), tl.multiple_of(v_at, (1, 16))
        k = read(k_at, (depth < WIDTH)[:, None], there[None, :], WIDTH, DEPTH, PARTIAL, WIDEN)
        score = tl.dot(q, k, input_precision="ieee")
        unit = scale
        if HAS_BIAS:
            bias = tl.load(biases[:, None] - key[None, :], mask=there[None, :], other=0.0)
            score, unit = score * scale + bias * LOG2E, 1.0
        visible = (key[None, :] >= low[:, None]) & (key[None, :] < high[:, None])
        if PARTIAL:
            score = tl.where(visible, score, NOTHING)
        larger = tl.maximum(maximum, tl.max(score, 1) * unit)
        below = score * unit - larger[:, None]
        e = tl.exp2(below)
        if PARTIAL:
            e = tl.where(score > HIDDEN, e, 0.0)
        rise = maximum - larger
        factor = tl.exp2(rise)
        v = read(v_at, (depth < WIDTH)[None, :], there[:, None], WIDTH, DEPTH, PARTIAL, WIDEN)
        p = e.to(v.dtype)
        output = tl.dot(p, v, output * factor[:, None], input_precision="ieee")
        if LOOK:
            on_special, again, followed, away = relate(e, key, ids_at, special_at, num_ids, num_marks, place, own_id, PARTIAL)
            special, duplicate = special * factor + on_special, duplicate * factor + again
            induction, distance = induction * factor + followed, distance * factor + away
            weighted = (weighted + rise * total) * factor + tl.sum(e * below, 1)
            squares = squares * (factor * factor) + tl.sum(e * e, 1)
            row_sum = row_sum * factor + tl.sum(p.to(tl.float32), 1)
            forbidden = forbidden * factor
            if PARTIAL:
                forbidden = tl.maximum(forbidden, tl.max(tl.where(visible, 0.0, e), 1))
            top = keep_top(top * factor[:, None], e, KEYS)
        total = total * factor + tl.sum(e, 1)
        maximum = larger
    return (
        output,
        maximum,
        total,
        weighted,
        squares,
        distance,
        special,
        duplicate,
        induction,
        row_sum,
        forbidden,
        top,
    )


@triton.jit
def weigh(
    key,
    q,
    maximum,
    inverse,
    low,
    high,
    biases,
    keys_at,
    key_stride,
    scale,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Each row's weight of a single key; 0 where it isn't seen."""
    depth = tl.arange(0, DEPTH)
    seen = (key >= low) & (key < high)
    at = keys_at + key.to(tl.int64)[:, None] * key_stride + depth[None, :]
    k = tl.load(at, mask=seen[:, None] & (depth < WIDTH)[None, :], other=0.0)
    score = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale
    if HAS_BIAS:
        score += tl.load(biases - key, mask=seen, other=0.0) * LOG2E
    return tl.where(seen, tl.exp2(tl.minimum(score - maximum, 0.0)) * inverse, 0.0)


@triton.jit
def attend(
    queries,  # [tokens, heads, WIDTH]
    outputs,  # [tokens, heads, WIDTH], contiguous
    quantities,  # [planes, heads, tokens] as in `QUANTITIES` of kqv/attention/statistics.py; unused without LOOK
    lows,
    highs,  # [tokens]: a query sees the keys low … high − 1 of its sequence
    bias,  # [heads, bias_length]: what is added at query i and key j lies at i − j + bias_zero; unused without HAS_BIAS
    sequences,  # [sequences, 8] int64: addresses of keys, values, ids, special; start, queries, keys, top_k
    tiles,  # [tiles, 2]: the sequence that a tile of rows belongs to, and its first row
    tokens,
    heads,
    shared,  # query heads to a key head
    query_stride,
    key_stride,
    value_stride,  # from one token to the next
    bias_length,
    bias_zero,
    scale,
    SAME: tl.constexpr,  # whether queries and keys are the same tokens, the queries being the last of the keys
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,  # the width, up to the next power of two
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    ALIGNED: tl.constexpr,  # whether 16 bytes at once may be read wherever a token's head begins
    HAS_BIAS: tl.constexpr,
    LOOK: tl.constexpr,
    WIDEN: tl.constexpr,  # to multiply in float32: Triton's interpreter multiplies bfloat16's bits
):
    """Attend; with LOOK, gather the statistics too."""
    tile, key_head = tl.program_id(0), tl.program_id(1)
    sequence = sequences + 8 * tl.load(tiles + 2 * tile)
    number = queries.dtype.element_ty
    keys_at = tl.load(sequence).to(tl.pointer_type(number)) + key_head * WIDTH
    values_at = tl.load(sequence + 1).to(tl.pointer_type(number)) + key_head * WIDTH
    ids_address, special_address = tl.load(sequence + 2), tl.load(sequence + 3)
    start, num_queries, num_keys = tl.load(sequence + 4), tl.load(sequence + 5).to(tl.int32), tl.load(sequence + 6).to(tl.int32)
    ids_at, special_at = ids_address.to(tl.pointer_type(tl.int32)), special_address.to(tl.pointer_type(tl.int8))
    num_ids, num_marks = tl.where(ids_address != 0, num_keys, 0), tl.where(special_address != 0, num_keys, 0)

    row = tl.load(tiles + 2 * tile + 1) + tl.arange(0, ROWS)
    query, head = row // shared, key_head * shared + row % shared
    used = query < num_queries
    read = num_keys - num_queries if SAME else 0
    place, token = tl.minimum(query, num_queries - 1) + read, start + query  # idle rows read the last one's biases
    low = tl.load(lows + token, mask=used, other=0)
    high = tl.load(highs + token, mask=used, other=0)
    sees = low < high
    own_id = tl.load(ids_at + place, mask=used & (place < num_ids), other=-2)
    biases = bias + head * bias_length + place + bias_zero
    depth = tl.arange(0, DEPTH)
    inside = used[:, None] & (depth < WIDTH)[None, :]
    q = tl.load(queries + token[:, None] * query_stride + (head * WIDTH)[:, None] + depth[None, :], mask=inside, other=0.0)
    q = q.to(tl.float32) if WIDEN else q

    # Tiles of keys that some row sees, and among them those that every row sees whole.
    begin = tl.min(tl.where(sees, low, num_keys), 0) // KEYS
    end = tl.maximum(begin, tl.cdiv(tl.max(tl.where(sees, high, 0), 0), KEYS))
    whole_from = tl.minimum(end, tl.maximum(begin, tl.cdiv(tl.max(tl.where(used, low, 0), 0), KEYS)))
    whole_to = tl.minimum(end, tl.min(tl.where(used, high, num_keys), 0) // KEYS)
    if LOOK and SAME:
        whole_to = tl.minimum(whole_to, tl.min(place, 0) // KEYS)
    whole_to = tl.maximum(whole_from, whole_to)

    zero = tl.zeros([ROWS], tl.float32)
    state = (tl.zeros([ROWS, DEPTH], tl.float32), zero + NOTHING, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    state += (tl.zeros([ROWS, TOP], tl.float32),)
    of_rows = (place.to(tl.float32), low, high, own_id, biases)
    of_sequence = (keys_at, values_at, ids_at, special_at, num_keys, key_stride, value_stride, num_ids, num_marks)
    factor = scale * LOG2E
    state = see(whole_to, end, q, *state, *of_rows, *of_sequence, factor, WIDTH, DEPTH, KEYS, ALIGNED, HAS_BIAS, LOOK, WIDEN, True)
    state = see(
        whole_from, whole_to, q, *state, *of_rows, *of_sequence, factor, WIDTH, DEPTH, KEYS, ALIGNED, HAS_BIAS, LOOK, WIDEN, False
    )
    state = see(
        begin, whole_from, q, *state, *of_rows, *of_sequence, factor, WIDTH, DEPTH, KEYS, ALIGNED, HAS_BIAS, LOOK, WIDEN, True
    )
    output, maximum, total, weighted, squares, distance, special, duplicate, induction, row_sum, forbidden, top = state

    sees = total > 0
    inverse = tl.where(sees, 1.0 / tl.where(sees, total, 1.0), 0.0)
    place_out = (token * heads + head) * WIDTH
    tl.store(outputs + place_out[:, None] + depth[None, :], (output * inverse[:, None]).to(number), mask=inside)
    if LOOK:
        spread = tl.log2(tl.where(sees, total, 1.0))
        logsumexp = tl.where(sees, maximum + spread, float("-inf"))
        plane = heads * tokens
        at = quantities + head * tokens + token
        tl.store(at, logsumexp * LN2, mask=used)
        at += plane
        tl.store(at, row_sum * inverse, mask=used)
        at += plane
        tl.store(at, forbidden * inverse, mask=used)
        at += plane
        tl.store(at, tl.maximum((spread - weighted * inverse) * LN2, 0.0), mask=used)
        at += plane
        tl.store(at, inverse, mask=used)
        at += plane
        tl.store(at, tl.where(sees, total * total / tl.where(sees, squares, 1.0), 0.0), mask=used)
        at += plane
        tl.store(at, sum_top(top, tl.load(sequence + 7).to(tl.int32)) * inverse, mask=used)
        at += plane
        tl.store(at, distance * inverse * SAME, mask=used)
        pairs = (q, maximum, inverse, low, high, biases, keys_at, key_stride, factor)
        at += plane
        tl.store(at, weigh(place, *pairs, WIDTH, DEPTH, HAS_BIAS) * SAME, mask=used)
        at += plane
        tl.store(at, weigh(place - 1, *pairs, WIDTH, DEPTH, HAS_BIAS) * SAME, mask=used)
        at += plane
        tl.store(at, weigh(place + 1, *pairs, WIDTH, DEPTH, HAS_BIAS) * SAME, mask=used)
        at += plane
        tl.store(at, weigh(place * 0, *pairs, WIDTH, DEPTH, HAS_BIAS), mask=used)
        at += plane
        tl.store(at, special * inverse, mask=used)
        at += plane
        tl.store(at, duplicate * inverse, mask=used)
        at += plane
        tl.store(at, induction * inverse, mask=used)
