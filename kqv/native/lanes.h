/* A lane is one query of one head: what it asks for, which keys it sees, and what is known of it after the tiles so far. */

#ifndef KQV_LANES_H
#define KQV_LANES_H

#include <string.h>

#include "call.h"
#include "vector.h"

enum { VECTORS = 4, LANES = VECTORS * WIDTH, KEYS = 96, WIDEST = 256, GROUP = 8, STRETCH = 4 * GROUP, KNOWN = 4096 };

static const float LOG2E = 1.44269504088896341f, LN2 = 0.693147180559945309f;
static const float NOTHING = -1e30f, HIDDEN = -1e29f; /* a masked score, and what such scores lie under */

/* Up to LANES lanes, and what is known of each after the tiles so far. */
typedef struct {
    Vector query[WIDEST][VECTORS];  /* scaled; transposed, as all is here */
    Vector output[WIDEST][VECTORS]; /* Σ e·v */
    Vector tile[KEYS][VECTORS];     /* scores, then e = exp(score − maximum) */
    Vector maximum[VECTORS], total[VECTORS], weighted[VECTORS], squares[VECTORS]; /* Σe, Σe·(score − maximum), Σe² */
    Vector distance[VECTORS], special[VECTORS], duplicate[VECTORS], induction[VECTORS], row_sum[VECTORS], forbidden[VECTORS];
    Vector top[VECTORS][GROUP];     /* the largest scores, in order */
    Vector self[VECTORS], previous[VECTORS], next[VECTORS], first[VECTORS]; /* scores */
    Vector place[VECTORS];          /* of the query among the keys */
    Integers low[VECTORS], high[VECTORS], id[VECTORS];
    const float *bias[LANES], *table[LANES];
    uint64_t known[KNOWN / 64]; /* a bit for each rest of a token divided by KNOWN: whether a lane has one that leaves it */
    int count, neighbours; /* lanes in use; whether neighbouring lanes are neighbouring queries of one head */
    int lowest, highest, full_from, full_to; /* keys that some lane sees, and that all do */
} Lanes;

/* A tile's keys. */
typedef struct {
    int first, count;
    float keys[KEYS * WIDEST], values[KEYS * WIDEST]; /* side by side: where they come from, they would evict each other from the cache */
    uint32_t tokens[1 + KEYS]; /* of the key before the first, and of each */
    float special[KEYS];
    float steps[GROUP + KEYS]; /* −GROUP, −GROUP + 1, …, KEYS − 1 */
} Keys;

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
    const int knows = call->quantities && sequence->ids && sequence->same;
    if (call->quantities)
        memset(lanes->known, 0, sizeof lanes->known);
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
        if (knows) {
            const uint32_t token = (uint32_t)sequence->ids[query + offset];
            lanes->id[c][own] = (int32_t)token;
            lanes->known[token % KNOWN / 64] |= 1ull << token % 64;
        }
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
            lanes->top[c][k] = nothing;
        for (int64_t e = 0; e < call->width; e++)
            lanes->output[e][c] = zero;
    }
}

/* Whether a lane may have the token; for a few of those that none has it says so too. */
INLINE int may_know(const Lanes *lanes, uint32_t token) { return lanes->known[token % KNOWN / 64] >> token % 64 & 1; }

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
        if (call->output)
            copy(keys->values + j * call->width, v + j * call->value_stride, call->width);
    }
    for (int j = 0; call->quantities && j < GROUP + KEYS; j++)
        keys->steps[j] = (float)(j - GROUP);
    for (int j = 0; call->quantities && j < KEYS; j++)
        keys->special[j] = sequence->special && j < count ? sequence->special[first + j] : 0;
    for (int j = 0; call->quantities && j <= count; j++)
        keys->tokens[j] = sequence->ids && first + j > 0 ? (uint32_t)sequence->ids[first + j - 1] : UINT32_MAX;
}

#endif
