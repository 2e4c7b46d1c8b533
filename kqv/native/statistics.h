/* The online softmax and its statistics: what is summed a tile at a time, and what the sums say in the end. */

#ifndef KQV_STATISTICS_H
#define KQV_STATISTICS_H

#include <math.h>

#include "lanes.h"

/* Note the scores of single keys: the first, the query itself, its neighbours. */
INLINE void note_scores(Lanes *lanes, int base, int count, const int vectors)
{
    for (int c = 0; c < vectors && base == 0; c++)
        lanes->first[c] = lanes->tile[0][c];
    const int last = lanes->count - 1;
    if (base > (int)lanes->place[last / WIDTH][last % WIDTH] + 1 || base + count < (int)lanes->place[0][0])
        return;
    for (int lane = 0; lane < lanes->count; lane++) {
        const int c = lane / WIDTH, own = lane % WIDTH, itself = (int)lanes->place[c][own] - base;
        if (itself >= 0 && itself < count)
            lanes->self[c][own] = lanes->tile[itself][c][own];
        if (itself - 1 >= 0 && itself - 1 < count)
            lanes->previous[c][own] = lanes->tile[itself - 1][c][own];
        if (itself + 1 >= 0 && itself + 1 < count)
            lanes->next[c][own] = lanes->tile[itself + 1][c][own];
    }
}

INLINE void order(Vector *a, Vector *b)
{
    Vector larger = greater(*a, *b);
    *b = smaller(*a, *b);
    *a = larger;
}

/* Keep the GROUP largest of the `top` and of a group of further numbers: sort those, merge (Batcher, 1968). */
INLINE void keep_top(Vector top[GROUP], Vector group[GROUP])
{
    static const int8_t sort[19][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                       {0, 4}, {3, 7}, {1, 5}, {2, 6}, {1, 4}, {3, 6}, {2, 4}, {3, 5}, {3, 4}};
    static const int8_t merge[12][2] = {{0, 4}, {1, 5}, {2, 6}, {3, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {0, 1}, {2, 3}, {4, 5}, {6, 7}};
    Vector largest = group[0];
    for (int k = 1; k < GROUP; k++)
        largest = greater(largest, group[k]);
    if (!any_greater(largest, top[GROUP - 1]))
        return;
#pragma GCC unroll 19
    for (int k = 0; k < 19; k++)
        order(&group[sort[k][0]], &group[sort[k][1]]);
#pragma GCC unroll 8
    for (int k = 0; k < GROUP; k++)
        top[k] = greater(top[k], group[GROUP - 1 - k]);
#pragma GCC unroll 12
    for (int k = 0; k < 12; k++)
        order(&top[merge[k][0]], &top[merge[k][1]]);
}

/* The same for one further number, which may not be among them. */
INLINE void keep_one(Vector top[GROUP], Vector number)
{
    if (!any_greater(number, top[GROUP - 1]))
        return;
#pragma GCC unroll 8
    for (int k = GROUP - 1; k > 0; k--)
        top[k] = greater(top[k], smaller(top[k - 1], number));
    top[0] = greater(top[0], number);
}

/* Four keys' scores, in order. */
INLINE void read_four(Vector four[4], const Lanes *lanes, int j, int c)
{
    for (int k = 0; k < 4; k++)
        four[k] = lanes->tile[j + k][c];
    order(&four[0], &four[1]);
    order(&four[2], &four[3]);
    order(&four[0], &four[2]);
    order(&four[1], &four[3]);
    order(&four[1], &four[2]);
}

/* The same for all scores of a tile, four at a time: the fours' largest are sorted and merged, then their second largest; what is
   below those is hardly ever among the largest. */
INLINE void keep_leaders(Vector top[GROUP], const Lanes *lanes, int count, int c)
{
    Vector leaders[GROUP], seconds[KEYS / STRETCH][GROUP], thirds[KEYS / STRETCH], four[4];
    for (int start = 0; start < count; start += STRETCH) {
        Vector third = spread(NOTHING);
#pragma GCC unroll 8
        for (int k = 0; k < GROUP; k++) {
            read_four(four, lanes, start + 4 * k, c);
            leaders[k] = four[0], seconds[start / STRETCH][k] = four[1];
            third = greater(third, four[2]);
        }
        thirds[start / STRETCH] = third;
        keep_top(top, leaders);
    }
    for (int start = 0; start < count; start += STRETCH)
        keep_top(top, seconds[start / STRETCH]);
    for (int start = 0; start < count; start += STRETCH)
        for (int k = 0; k < GROUP && any_greater(thirds[start / STRETCH], top[GROUP - 1]); k++) {
            read_four(four, lanes, start + 4 * k, c);
            keep_one(top, four[2]);
            keep_one(top, four[3]);
        }
}

/* Keep the largest scores of a tile. Of the first few keys nearly all are among the largest, whichever lead. */
INLINE void keep_largest(Lanes *lanes, int base, int count, const int vectors)
{
    for (int c = 0; c < vectors; c++) {
        Vector top[GROUP], group[GROUP];
        for (int k = 0; k < GROUP; k++)
            top[k] = lanes->top[c][k];
        if (base + count - lanes->lowest >= 2 * STRETCH)
            keep_leaders(top, lanes, count, c);
        else
            for (int start = 0; start < count; start += GROUP) {
                for (int k = 0; k < GROUP; k++)
                    group[k] = lanes->tile[start + k][c];
                keep_top(top, group);
            }
        for (int k = 0; k < GROUP; k++)
            lanes->top[c][k] = top[k];
    }
}

/* Take the larger of the tile's and the former maxima, and rescale what there is to it. */
INLINE void rescale(Lanes *lanes, int base, int count, int64_t width, const int vectors, const int statistics)
{
    Vector maximum[VECTORS];
    if (statistics)
        keep_largest(lanes, base, count, vectors);
    for (int c = 0; c < vectors; c++)
        maximum[c] = statistics ? lanes->top[c][0] : lanes->maximum[c];
    for (int j = 0; j < count && !statistics; j++)
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
        }
        lanes->total[c] *= factor;
        for (int64_t e = 0; e < width; e++)
            lanes->output[e][c] *= factor;
    }
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
        Vector total = {0}, weighted = lanes->weighted[c], squares = lanes->squares[c], distance = lanes->distance[c];
        Vector special = lanes->special[c];
        for (int start = 0; start < count; start += GROUP) {
#pragma GCC unroll 8
            for (int k = 0; k < GROUP; k++) {
                const int j = start + k;
                const Vector score = lanes->tile[j][c], below = score - maximum;
                Vector e = power_of_two(below);
                if (masked)
                    e = pick(score > HIDDEN, e, (Vector){0});
                lanes->tile[j][c] = e;
                total += e;
                if (!statistics)
                    continue;
                weighted += e * below;
                squares += e * e;
                special += e * keys->special[j];
                if (side == ABOUT) {
                    distance += e * absolute(place - (float)(base + j));
                } else {
                    distance += e * steps[side == BEFORE ? count - 1 - j : j];
                }
            }
        }
        lanes->total[c] += total;
        if (statistics) {
            if (side == BEFORE)
                distance += total * (place - (float)(base + count - 1));
            if (side == AFTER)
                distance += total * ((float)base - place);
            lanes->weighted[c] = weighted, lanes->squares[c] = squares, lanes->distance[c] = distance;
            lanes->special[c] = special;
        }
    }
}

/* Add e of the keys that have their query's token, and of those that follow one, before the query. Few keys have a token that any of
   the lanes has, so that these are found first. */
INLINE void relate(Lanes *lanes, const Keys *keys, const int vectors)
{
    int places[KEYS + 1], found = 0;
    for (int j = 0; j <= keys->count; j++) {
        places[found] = j;
        found += may_know(lanes, keys->tokens[j]);
    }
    for (int k = 0; k < found; k++) {
        const int j = places[k]; /* one past the key with the token */
        for (int c = 0; c < vectors; c++) {
            const Integers same = lanes->id[c] == keys->tokens[j];
            const Vector offset = lanes->place[c] - (float)(keys->first + j);
            if (j > 0)
                lanes->duplicate[c] += pick(same & (offset != -1.0f), lanes->tile[j - 1][c], (Vector){0});
            if (j < keys->count)
                lanes->induction[c] += pick(same & (offset > 0.0f), lanes->tile[j][c], (Vector){0});
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
    for (int own = 0; own < WIDTH; own++)
        spreading[own] = log2f(total[own]);
    const Vector logsumexp = lanes->maximum[c] + spreading;
    for (int k = 0; k < sequence->top_k; k++)
        top += weight(lanes->top[c][k], lanes->maximum[c]);
    planes[LOGSUMEXP] = logsumexp * LN2;
    planes[ROW_SUM] = lanes->row_sum[c] * inverse;
    planes[FORBIDDEN] = lanes->forbidden[c] * inverse;
    planes[ENTROPY] = greater((spreading - lanes->weighted[c] * inverse) * LN2, (Vector){0});
    planes[MAX_WEIGHT] = inverse;
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
