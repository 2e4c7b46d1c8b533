/* Attention of a whole packed batch in one call, with the statistics of every query's softmax beside its output.

   The same numbers as kqv/attention/streaming.py, for float32 on the CPU. Scores are made in tiles of KEYS keys × LANES lanes, which
   never leave the cache. A lane is one query of one head, so that a sum over keys is a plain addition of vectors; the lanes of a tile
   share their keys and values, which are read where they lie. A further tile rescales what there is to the larger maximum. */

#include <math.h>
#include <omp.h>
#include <stdint.h>


#include "vector.h"

enum { VECTORS = 4, LANES = VECTORS * WIDTH, KEYS = 96, WIDEST = 256, GROUP = 8, ROWS = 6, PARTS = 4 };

/* What is kept of a query, a plane [heads][tokens] each, in the order of `QUANTITIES` in kqv/attention/statistics.py. */
enum { LOGSUMEXP, ROW_SUM, FORBIDDEN, ENTROPY, MAX_WEIGHT, EFFECTIVE_TOKENS, TOP_K_MASS, DISTANCE, SELF, PREVIOUS, NEXT, FIRST,
       SPECIAL, DUPLICATE, INDUCTION, NUM_PLANES };

/* One sequence of the batch. */
typedef struct {
    const float *keys, *values; /* [num_keys][key heads][width] */
    const float *table;         /* [heads or 1][num_keys][num_queries]: added to the scores, −inf where masked; or NULL */
    const int32_t *ids;         /* each key's token; or NULL */
    const uint8_t *special;     /* whether a key is a special token; or NULL */
    int64_t start, num_queries, num_keys; /* its queries are tokens start … start + num_queries − 1 of the batch */
    int64_t table_stride;       /* from one head to the next, 0 where they share it */
    int32_t top_k;              /* how many of the largest weights to sum, at most GROUP */
    int32_t same;               /* whether queries and keys are the same tokens, the queries being the last of the keys */
} Sequence;

typedef struct {
    const float *queries;      /* [tokens][heads][width] */
    float *output;             /* [tokens][heads][width], contiguous */
    float *quantities;         /* [planes][heads][tokens]; or NULL: the output alone */
    const int32_t *low, *high; /* [tokens]: a query sees the keys low … high − 1 of its sequence */
    const float *bias;         /* [heads][bias_length]: what is added at query i and key j lies at i − j + bias_zero; or NULL */
    const Sequence *sequences;
    int64_t num_sequences, tokens, heads, key_heads, width;
    int64_t query_stride, key_stride, value_stride; /* from one token to the next */
    int64_t bias_length, bias_zero;
    float scale;
} Call;

/* Up to LANES lanes, and what is known of each after the tiles so far. */
typedef struct {
    Vector query[WIDEST][VECTORS];  /* scaled; transposed, as all is here */
    Vector output[WIDEST][VECTORS]; /* Σ e·v */
    Vector tile[KEYS][VECTORS];     /* scores, then e = exp(score − maximum) */
    Vector maximum[VECTORS], total[VECTORS], weighted[VECTORS], squares[VECTORS]; /* Σe, Σe·(score − maximum), Σe² */
    Vector distance[VECTORS], special[VECTORS], duplicate[VECTORS], induction[VECTORS], row_sum[VECTORS], forbidden[VECTORS];
    Vector top[VECTORS][GROUP];     /* the largest e, in order */
    Vector self[VECTORS], previous[VECTORS], next[VECTORS], first[VECTORS]; /* scores */
    Vector place[VECTORS];          /* of the query among the keys */
    Integers low[VECTORS], high[VECTORS], id[VECTORS];
    const float *bias[LANES], *table[LANES];
    int count, neighbours; /* lanes in use; whether neighbouring lanes are neighbouring queries of one head */
    int lowest, highest, full_from, full_to; /* keys that some lane sees, and that all do */
} Lanes;

/* A tile's keys. */
typedef struct {
    int first, count;
    float keys[KEYS * WIDEST], values[KEYS * WIDEST]; /* side by side: where they come from, they would evict each other from the cache */
    int32_t ids[KEYS], before[KEYS]; /* each key's token, and that of the key before it; −1 for none */
    float special[KEYS];
} Keys;

/* A thread's working memory. Where there are many queries, several parts of them share each tile's keys. */
typedef struct {
    Lanes lanes[PARTS];
    Keys keys;
} Scratch;

static const float LOG2E = 1.44269504088896341f, LN2 = 0.693147180559945309f;
static const float NOTHING = -1e30f, HIDDEN = -1e29f; /* a masked score, and what such scores lie under */

/* Scores of `rows` keys from `key` on, as rows j … of the tile. */
INLINE void score_rows(Lanes *lanes, int j, const float *key, int64_t width, const int vectors, const int rows)
{
    Vector sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            sum[r][c] = (Vector){0};
    for (int64_t d = 0; d < width; d++)
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < vectors; c++)
                sum[r][c] += lanes->query[d][c] * key[r * width + d];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            lanes->tile[j + r][c] = sum[r][c];
}

INLINE void score_tile(Lanes *lanes, const float *keys, int count, int64_t width, const int vectors)
{
    int j = 0;
    for (; j + ROWS <= count; j += ROWS)
        score_rows(lanes, j, keys + j * width, width, vectors, ROWS);
    for (; j < count; j++)
        score_rows(lanes, j, keys + j * width, width, vectors, 1);
}

/* Add e·v of the tile's keys to columns e … e + rows − 1 of the output. */
INLINE void add_columns(Lanes *lanes, int64_t e, const float *value, int count, int64_t width, const int vectors, const int rows)
{
    Vector sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            sum[r][c] = lanes->output[e + r][c];
    for (int j = 0; j < count; j++)
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < vectors; c++)
                sum[r][c] += lanes->tile[j][c] * value[j * width + e + r];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            lanes->output[e + r][c] = sum[r][c];
}

INLINE void add_values(Lanes *lanes, const float *values, int count, int64_t width, const int vectors)
{
    int64_t e = 0;
    for (; e + ROWS <= width; e += ROWS)
        add_columns(lanes, e, values, count, width, vectors, ROWS);
    for (; e + 4 <= width; e += 4)
        add_columns(lanes, e, values, count, width, vectors, 4);
    for (; e < width; e++)
        add_columns(lanes, e, values, count, width, vectors, 1);
}

/* One number for each lane of a vector: where neighbours lie beside each other they are read at once. */
INLINE Vector gather(const float *const at[LANES], int c, int64_t offset, int neighbours)
{
    if (neighbours)
        return load(at[c * WIDTH] + offset);
    Vector gathered;
    for (int lane = 0; lane < WIDTH; lane++)
        gathered[lane] = at[c * WIDTH + lane][offset];
    return gathered;
}

/* Add biases, hide what is masked; `base` is the tile's first key. */
INLINE void bias_and_mask(Lanes *lanes, const Sequence *sequence, int base, int count, int partial, const int vectors)
{
    for (int j = 0; j < count; j++)
        for (int c = 0; c < vectors; c++) {
            Vector score = lanes->tile[j][c];
            if (lanes->bias[0])
                score += gather(lanes->bias, c, -(base + j), lanes->neighbours) * LOG2E;
            if (lanes->table[0])
                score += gather(lanes->table, c, (base + j) * sequence->num_queries, lanes->neighbours) * LOG2E;
            if (partial)
                score = pick((lanes->low[c] <= base + j) & (lanes->high[c] > base + j), score, spread(NOTHING));
            lanes->tile[j][c] = greater(score, spread(NOTHING));
        }
}

/* Largest weight that a hidden key got, after exp: a certificate, which is zero unless this file is wrong. */
INLINE void certify(Lanes *lanes, const Sequence *sequence, int base, int count, const int vectors)
{
    for (int j = 0; j < count; j++)
        for (int c = 0; c < vectors; c++) {
            Integers hidden = (lanes->low[c] > base + j) | (lanes->high[c] <= base + j);
            if (lanes->table[0])
                hidden |= gather(lanes->table, c, (base + j) * sequence->num_queries, lanes->neighbours) < HIDDEN;
            lanes->forbidden[c] = greater(lanes->forbidden[c], pick(hidden, lanes->tile[j][c], (Vector){0}));
        }
}

/* Note the scores of single keys: the query itself, its neighbours, the first key. */
static void note_scores(Lanes *lanes, int base, int count)
{
    for (int lane = 0; lane < lanes->count; lane++) {
        const int c = lane / WIDTH, own = lane % WIDTH, itself = (int)lanes->place[c][own] - base;
        if (itself >= 0 && itself < count)
            lanes->self[c][own] = lanes->tile[itself][c][own];
        if (itself - 1 >= 0 && itself - 1 < count)
            lanes->previous[c][own] = lanes->tile[itself - 1][c][own];
        if (itself + 1 >= 0 && itself + 1 < count)
            lanes->next[c][own] = lanes->tile[itself + 1][c][own];
        if (base == 0)
            lanes->first[c][own] = lanes->tile[0][c][own];
    }
}

/* Take the larger of the tile's and the former maxima, and rescale what there is to it. */
INLINE void rescale(Lanes *lanes, int count, int64_t width, const int vectors, const int statistics)
{
    Vector maximum[VECTORS];
    for (int c = 0; c < vectors; c++)
        maximum[c] = lanes->maximum[c];
    for (int j = 0; j < count; j++)
        for (int c = 0; c < vectors; c++)
            maximum[c] = greater(maximum[c], lanes->tile[j][c]);
    for (int c = 0; c < vectors; c++) {
        const Vector old = lanes->maximum[c], new = maximum[c];
        if (!any_greater(new, old))
            continue;
        const Vector factor = power_of_two(old - new);
        lanes->maximum[c] = new;
        if (statistics) {
            lanes->weighted[c] = factor * (lanes->weighted[c] + greater(old - new, spread(-1000.0f)) * lanes->total[c]);
            lanes->squares[c] *= factor * factor;
            lanes->distance[c] *= factor;
            lanes->special[c] *= factor;
            lanes->duplicate[c] *= factor;
            lanes->induction[c] *= factor;
            lanes->row_sum[c] *= factor;
            lanes->forbidden[c] *= factor;
            for (int k = 0; k < GROUP; k++)
                lanes->top[c][k] *= factor;
        }
        lanes->total[c] *= factor;
        for (int64_t e = 0; e < width; e++)
            lanes->output[e][c] *= factor;
    }
}

INLINE void order(Vector *a, Vector *b)
{
    Vector larger = greater(*a, *b);
    *b = smaller(*a, *b);
    *a = larger;
}

/* Keep the GROUP largest of the `top` and of a group of further numbers: sort those, merge (Batcher, 1968). */
INLINE void keep_top(Vector top[GROUP], Vector e[GROUP])
{
    static const int8_t sort[19][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                       {0, 4}, {3, 7}, {1, 5}, {2, 6}, {1, 4}, {3, 6}, {2, 4}, {3, 5}, {3, 4}};
    static const int8_t merge[12][2] = {{0, 4}, {1, 5}, {2, 6}, {3, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {0, 1}, {2, 3}, {4, 5}, {6, 7}};
    Vector largest = e[0];
    for (int k = 1; k < GROUP; k++)
        largest = greater(largest, e[k]);
    if (!any_greater(largest, top[GROUP - 1]))
        return;
#pragma GCC unroll 19
    for (int k = 0; k < 19; k++)
        order(&e[sort[k][0]], &e[sort[k][1]]);
#pragma GCC unroll 8
    for (int k = 0; k < GROUP; k++)
        top[k] = greater(top[k], e[GROUP - 1 - k]);
#pragma GCC unroll 12
    for (int k = 0; k < 12; k++)
        order(&top[merge[k][0]], &top[merge[k][1]]);
}

/* exp of the tile, in place, and its sums; `masked` where some scores are hidden. */
INLINE void exponentiate(Lanes *lanes, const Keys *keys, const int masked, const int vectors, const int statistics)
{
    const int base = keys->first, count = keys->count;
    for (int c = 0; c < vectors; c++) {
        const Vector maximum = lanes->maximum[c], place = lanes->place[c];
        const Integers id = lanes->id[c];
        Vector total = lanes->total[c], weighted = lanes->weighted[c], squares = lanes->squares[c], distance = lanes->distance[c];
        Vector special = lanes->special[c], duplicate = lanes->duplicate[c], induction = lanes->induction[c];
        for (int start = 0; start < count; start += GROUP) {
            Vector group[GROUP];
#pragma GCC unroll 8
            for (int k = 0; k < GROUP; k++) {
                const int j = start + k;
                const Vector score = lanes->tile[j][c], below = score - maximum;
                Vector e = power_of_two(below);
                if (masked)
                    e = pick(score > HIDDEN, e, (Vector){0});
                lanes->tile[j][c] = group[k] = e;
                total += e;
                if (statistics) {
                    const Vector offset = place - (float)(base + j);
                    weighted += e * below;
                    squares += e * e;
                    distance += e * absolute(offset);
                    special += e * keys->special[j];
                    duplicate += pick((id == keys->ids[j]) & (offset != 0.0f), e, (Vector){0});
                    induction += pick((id == keys->before[j]) & (offset > 0.0f), e, (Vector){0});
                }
            }
            if (statistics)
                keep_top(lanes->top[c], group);
        }
        lanes->total[c] = total;
        if (statistics) {
            lanes->weighted[c] = weighted, lanes->squares[c] = squares, lanes->distance[c] = distance;
            lanes->special[c] = special, lanes->duplicate[c] = duplicate, lanes->induction[c] = induction;
        }
    }
}

/* memcpy, for a few vectors at most. */
INLINE void copy(float *to, const float *from, int64_t width)
{
    int64_t d = 0;
    for (; d + WIDTH <= width; d += WIDTH)
        store(to + d, load(from + d));
    for (; d < width; d++)
        to[d] = from[d];
}

/* Fetch `count` keys from `first` on. */
static void read_keys(Keys *keys, const Call *call, const Sequence *sequence, int64_t key_head, int first, int count)
{
    const float *k = sequence->keys + first * call->key_stride + key_head * call->width;
    const float *v = sequence->values + first * call->value_stride + key_head * call->width;
    keys->first = first, keys->count = count;
    for (int j = 0; j < count; j++) {
        copy(keys->keys + j * call->width, k + j * call->key_stride, call->width);
        copy(keys->values + j * call->width, v + j * call->value_stride, call->width);
    }
    for (int j = 0; call->quantities && j < KEYS; j++) {
        const int key = first + j, known = sequence->ids && j < count;
        keys->ids[j] = known ? sequence->ids[key] : -1;
        keys->before[j] = known && key > 0 ? sequence->ids[key - 1] : -1;
        keys->special[j] = sequence->special && j < count ? sequence->special[key] : 0;
    }
}

/* Let the lanes see one tile of keys. */
INLINE void see(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence, const int vectors, const int statistics)
{
    const int count = keys->count, partial = keys->first < lanes->full_from || keys->first + count > lanes->full_to;
    score_tile(lanes, keys->keys, count, call->width, vectors);
    if (partial || lanes->bias[0] || lanes->table[0])
        bias_and_mask(lanes, sequence, keys->first, count, partial, vectors);
    for (int j = count; j % GROUP; j++)
        for (int c = 0; c < vectors; c++)
            lanes->tile[j][c] = spread(NOTHING);
    if (statistics)
        note_scores(lanes, keys->first, count);
    rescale(lanes, count, call->width, vectors, statistics);
    if (partial || count % GROUP || lanes->table[0])
        exponentiate(lanes, keys, 1, vectors, statistics);
    else
        exponentiate(lanes, keys, 0, vectors, statistics);
    if (statistics) {
        if (partial || lanes->table[0])
            certify(lanes, sequence, keys->first, count, vectors);
        for (int j = 0; j < count; j++)
            for (int c = 0; c < vectors; c++)
                lanes->row_sum[c] += lanes->tile[j][c];
    }
    add_values(lanes, keys->values, count, call->width, vectors);
}

INLINE void see_by(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence, const int vectors)
{
    if (call->quantities)
        see(lanes, keys, call, sequence, vectors, 1);
    else
        see(lanes, keys, call, sequence, vectors, 0);
}

/* The same for as many vectors as are in use, a copy of the code for each. */
static void see_keys(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence)
{
    switch ((lanes->count + WIDTH - 1) / WIDTH) {
    case 1: see_by(lanes, keys, call, sequence, 1); break;
    case 2: see_by(lanes, keys, call, sequence, 2); break;
    case 3: see_by(lanes, keys, call, sequence, 3); break;
    default: see_by(lanes, keys, call, sequence, 4);
    }
}

/* Vector c of the lanes' queries: read along the width, kept across it. */
static void load_queries(Lanes *lanes, int c, const float *const queries[WIDTH], int64_t width, float scale)
{
    Vector rows[WIDTH];
    int64_t d = 0;
    for (; d + WIDTH <= width; d += WIDTH) {
        for (int own = 0; own < WIDTH; own++)
            rows[own] = load(queries[own] + d) * scale;
        transpose(rows);
        for (int own = 0; own < WIDTH; own++)
            lanes->query[d + own][c] = rows[own];
    }
    for (; d < width; d++)
        for (int own = 0; own < WIDTH; own++)
            lanes->query[d][c][own] = queries[own][d] * scale;
}

/* Put the queries of lanes first … first + count − 1 in place; lanes of a sequence go query by query, each with the heads that share
   key head `key_head`. Idle lanes repeat the last one. */
static void begin(Lanes *lanes, const Call *call, const Sequence *sequence, int64_t key_head, int64_t first, int count)
{
    const int64_t shared = call->heads / call->key_heads;
    const int used = (count + WIDTH - 1) / WIDTH;
    const int offset = sequence->same ? (int)(sequence->num_keys - sequence->num_queries) : 0;
    lanes->count = count, lanes->neighbours = shared == 1;
    lanes->lowest = lanes->full_to = INT32_MAX, lanes->highest = lanes->full_from = 0;
    const float *queries[WIDTH];
    for (int lane = 0; lane < used * WIDTH; lane++) {
        const int c = lane / WIDTH, own = lane % WIDTH, idle = lane >= count;
        const int64_t index = first + (idle ? count - 1 : lane), query = index / shared, head = key_head * shared + index % shared;
        const int64_t token = sequence->start + query;
        queries[own] = call->queries + token * call->query_stride + head * call->width;
        if (own == WIDTH - 1)
            load_queries(lanes, c, queries, call->width, call->scale * LOG2E);
        lanes->bias[lane] = call->bias ? call->bias + head * call->bias_length + query + offset + call->bias_zero : NULL;
        lanes->table[lane] = sequence->table ? sequence->table + head * sequence->table_stride + query : NULL;
        lanes->place[c][own] = (float)(query + offset);
        lanes->id[c][own] = sequence->ids && sequence->same ? sequence->ids[query + offset] : -2;
        const int low = call->low[token], high = call->high[token];
        lanes->low[c][own] = low, lanes->high[c][own] = high;
        if (low < high) {
            lanes->lowest = low < lanes->lowest ? low : lanes->lowest;
            lanes->highest = high > lanes->highest ? high : lanes->highest;
        }
        lanes->full_from = low > lanes->full_from ? low : lanes->full_from;
        lanes->full_to = high < lanes->full_to ? high : lanes->full_to;
    }
    for (int c = 0; c < used; c++) {
        const Vector zero = {0}, nothing = spread(NOTHING);
        lanes->maximum[c] = lanes->self[c] = lanes->previous[c] = lanes->next[c] = lanes->first[c] = nothing;
        lanes->total[c] = lanes->weighted[c] = lanes->squares[c] = lanes->distance[c] = lanes->special[c] = zero;
        lanes->duplicate[c] = lanes->induction[c] = lanes->row_sum[c] = lanes->forbidden[c] = zero;
        for (int k = 0; k < GROUP; k++)
            lanes->top[c][k] = zero;
        for (int64_t e = 0; e < call->width; e++)
            lanes->output[e][c] = zero;
    }
}

/* What `finish` writes to: a lane's place in the planes, and its output. */
static void store_outputs(const Lanes *lanes, const Call *call, int c, float *const outputs[WIDTH], int used)
{
    const Vector total = lanes->total[c], inverse = pick(total > 0.0f, 1.0f / total, (Vector){0});
    Vector rows[WIDTH];
    int64_t e = 0;
    for (; e + WIDTH <= call->width; e += WIDTH) {
        for (int own = 0; own < WIDTH; own++)
            rows[own] = lanes->output[e + own][c] * inverse;
        transpose(rows);
        for (int own = 0; own < used; own++)
            store(outputs[own] + e, rows[own]);
    }
    for (; e < call->width; e++)
        for (int own = 0; own < used; own++)
            outputs[own][e] = lanes->output[e][c][own] * inverse[own];
}

/* The weight of a single key whose score was noted. */
INLINE Vector weight(Vector score, Vector logsumexp)
{
    return pick(score > HIDDEN, power_of_two(smaller(score - logsumexp, (Vector){0})), (Vector){0});
}

/* The planes of vector c, by the names above; scores are in units of ln 2 until here. */
static void summarize(const Lanes *lanes, const Sequence *sequence, int c, Vector planes[NUM_PLANES])
{
    const Vector total = lanes->total[c];
    const Integers sees = total > 0.0f;
    const Vector inverse = pick(sees, 1.0f / total, (Vector){0});
    Vector top = {0}, spreading; /* log₂ Σe */
    for (int k = 0; k < sequence->top_k; k++)
        top += lanes->top[c][k];
    for (int own = 0; own < WIDTH; own++)
        spreading[own] = log2f(total[own]);
    const Vector logsumexp = lanes->maximum[c] + spreading;
    planes[LOGSUMEXP] = logsumexp * LN2;
    planes[ROW_SUM] = lanes->row_sum[c] * inverse;
    planes[FORBIDDEN] = lanes->forbidden[c] * inverse;
    planes[ENTROPY] = greater((spreading - lanes->weighted[c] * inverse) * LN2, (Vector){0});
    planes[MAX_WEIGHT] = lanes->top[c][0] * inverse;
    planes[EFFECTIVE_TOKENS] = pick(sees, total * total / lanes->squares[c], (Vector){0});
    planes[TOP_K_MASS] = top * inverse;
    planes[DISTANCE] = lanes->distance[c] * inverse;
    planes[SELF] = weight(lanes->self[c], logsumexp);
    planes[PREVIOUS] = weight(lanes->previous[c], logsumexp);
    planes[NEXT] = weight(lanes->next[c], logsumexp);
    planes[FIRST] = weight(lanes->first[c], logsumexp);
    planes[SPECIAL] = lanes->special[c] * inverse;
    planes[DUPLICATE] = lanes->duplicate[c] * inverse;
    planes[INDUCTION] = lanes->induction[c] * inverse;
    if (!sequence->same)
        planes[DISTANCE] = planes[SELF] = planes[PREVIOUS] = planes[NEXT] = (Vector){0};
}

/* Write out the lanes, which began at `first`. A query that sees no key has output 0 and a log-sum-exp of −inf. */
static void finish(const Lanes *lanes, const Call *call, const Sequence *sequence, int64_t key_head, int64_t first)
{
    const int64_t shared = call->heads / call->key_heads, next = call->heads * call->tokens;
    for (int c = 0; c * WIDTH < lanes->count; c++) {
        const int left = lanes->count - c * WIDTH, used = left < WIDTH ? left : WIDTH;
        float *outputs[WIDTH], *places[WIDTH];
        for (int own = 0; own < used; own++) {
            const int64_t index = first + c * WIDTH + own, head = key_head * shared + index % shared;
            const int64_t token = sequence->start + index / shared;
            outputs[own] = call->output + (token * call->heads + head) * call->width;
            places[own] = call->quantities ? call->quantities + head * call->tokens + token : NULL;
        }
        store_outputs(lanes, call, c, outputs, used);
        if (!call->quantities)
            continue;
        Vector planes[NUM_PLANES];
        summarize(lanes, sequence, c, planes);
        for (int plane = 0; plane < NUM_PLANES; plane++)
            for (int own = 0; own < used; own++)
                places[own][plane * next] = planes[plane][own];
    }
}

/* How one sequence's lanes are cut: into as few parts as there must be, of equal size; up to `together` of them make a task. */
typedef struct {
    int64_t lanes, size, together, tasks;
} Cut;

static Cut cut(const Call *call, const Sequence *sequence, int64_t together)
{
    const int64_t lanes = sequence->num_queries * (call->heads / call->key_heads), least = (lanes + LANES - 1) / LANES;
    const int64_t size = ((lanes + least - 1) / least + WIDTH - 1) / WIDTH * WIDTH, parts = (lanes + size - 1) / size;
    return (Cut){lanes, size, together, (parts + together - 1) / together};
}

static int64_t count_tasks(const Call *call, int64_t together)
{
    int64_t tasks = 0;
    for (int64_t s = 0; s < call->num_sequences; s++)
        tasks += cut(call, call->sequences + s, together).tasks * call->key_heads;
    return tasks;
}

/* A task: some parts of one sequence's lanes, for one key head. */
static void attend_parts(Scratch *scratch, const Call *call, const Sequence *sequence, Cut cut, int64_t key_head, int64_t task)
{
    const int64_t start = task * cut.together * cut.size;
    int parts = 0, lowest = INT32_MAX, highest = 0;
    for (int64_t first = start; parts < cut.together && first < cut.lanes; first += cut.size, parts++) {
        Lanes *lanes = scratch->lanes + parts;
        begin(lanes, call, sequence, key_head, first, (int)(cut.lanes - first < cut.size ? cut.lanes - first : cut.size));
        lowest = lanes->lowest < lowest ? lanes->lowest : lowest;
        highest = lanes->highest > highest ? lanes->highest : highest;
    }
    for (int first = lowest; first < highest; first += KEYS) {
        read_keys(&scratch->keys, call, sequence, key_head, first, highest - first < KEYS ? highest - first : KEYS);
        for (int part = 0; part < parts; part++)
            if (first < scratch->lanes[part].highest && first + KEYS > scratch->lanes[part].lowest)
                see_keys(scratch->lanes + part, &scratch->keys, call, sequence);
    }
    for (int part = 0; part < parts; part++)
        finish(scratch->lanes + part, call, sequence, key_head, start + part * cut.size);
}

/* Attend for the whole batch. */
void kqv_attend(const Call *call)
{
    static _Thread_local Scratch scratch __attribute__((aligned(64)));
    int64_t together = PARTS, tasks = count_tasks(call, together);
    while (together > 1 && tasks < 4 * omp_get_max_threads())
        tasks = count_tasks(call, together /= 2);
#pragma omp parallel for schedule(dynamic, 1) if (tasks > 1)
    for (int64_t task = 0; task < tasks; task++) {
        const Sequence *sequence = call->sequences;
        int64_t rest = tasks - 1 - task; /* under a causal mask the last queries have most to do, and go first */
        Cut own = cut(call, sequence, together);
        for (; rest >= own.tasks * call->key_heads; own = cut(call, ++sequence, together))
            rest -= own.tasks * call->key_heads;
        attend_parts(&scratch, call, sequence, own, rest / own.tasks, rest % own.tasks);
    }
}
