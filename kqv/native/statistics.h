/* The online softmax and its statistics: what is summed a tile at a time, and what the sums say in the end. */

#ifndef KQV_STATISTICS_H
#define KQV_STATISTICS_H

#include <math.h>

#include "lanes.h"

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

/* Where a tile's keys are to the lanes' queries: all before them, all after them, or about them. */
enum { BEFORE, AFTER, ABOUT };

/* exp of the tile, in place, and its sums; `masked` where some scores are hidden. Where the keys are all to one side, how far each is
   from the nearest of them comes out of a table, and how far that one is from the query is counted once. */
INLINE void exponentiate(Lanes *lanes, const Keys *keys, const int masked, const int side, const int vectors, const int statistics)
{
    const int base = keys->first, count = keys->count;
    const float *steps = keys->steps + GROUP;
    for (int c = 0; c < vectors; c++) {
        const Vector maximum = lanes->maximum[c], place = lanes->place[c];
        const Integers id = lanes->id[c];
        Vector total = {0}, weighted = lanes->weighted[c], squares = lanes->squares[c], distance = lanes->distance[c];
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
                if (!statistics)
                    continue;
                weighted += e * below;
                squares += e * e;
                special += e * keys->special[j];
                if (side == ABOUT) {
                    const Vector offset = place - (float)(base + j);
                    distance += e * absolute(offset);
                    duplicate += pick((id == keys->ids[j]) & (offset != 0.0f), e, (Vector){0});
                    induction += pick((id == keys->before[j]) & (offset > 0.0f), e, (Vector){0});
                } else {
                    distance += e * steps[side == BEFORE ? count - 1 - j : j];
                    duplicate += pick(id == keys->ids[j], e, (Vector){0});
                    if (side == BEFORE)
                        induction += pick(id == keys->before[j], e, (Vector){0});
                }
            }
            if (statistics)
                keep_top(lanes->top[c], group);
        }
        lanes->total[c] += total;
        if (statistics) {
            if (side == BEFORE)
                distance += total * (place - (float)(base + count - 1));
            if (side == AFTER)
                distance += total * ((float)base - place);
            lanes->weighted[c] = weighted, lanes->squares[c] = squares, lanes->distance[c] = distance;
            lanes->special[c] = special, lanes->duplicate[c] = duplicate, lanes->induction[c] = induction;
        }
    }
}

/* The same with a copy of the code for each case. */
INLINE void exponentiate_by(Lanes *lanes, const Keys *keys, int masked, int side, const int vectors, const int statistics)
{
    if (!statistics)
        side = ABOUT;
    switch (2 * side + masked) {
    case 2 * BEFORE: exponentiate(lanes, keys, 0, BEFORE, vectors, statistics); break;
    case 2 * BEFORE + 1: exponentiate(lanes, keys, 1, BEFORE, vectors, statistics); break;
    case 2 * AFTER: exponentiate(lanes, keys, 0, AFTER, vectors, statistics); break;
    case 2 * AFTER + 1: exponentiate(lanes, keys, 1, AFTER, vectors, statistics); break;
    case 2 * ABOUT: exponentiate(lanes, keys, 0, ABOUT, vectors, statistics); break;
    default: exponentiate(lanes, keys, 1, ABOUT, vectors, statistics);
    }
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

#endif
