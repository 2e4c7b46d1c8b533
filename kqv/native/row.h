/* The attention of one query of one head to the keys of its text. */

#ifndef KQV_ROW_H
#define KQV_ROW_H

#include "vector.h"

/* Σ of the products in whole vectors, lane by lane. */
INLINE Vector products(const float *a, const float *b, int64_t width)
{
    Vector sum = {0};
    for (int64_t d = 0; d + WIDTH <= width; d += WIDTH)
        sum += load(a + d) * load(b + d);
    return sum;
}

/* q · k of `count` keys. */
static void score_keys(const float *q, const float *keys, int64_t stride, int64_t count, int64_t width, float *scores)
{
    int64_t j = 0;
    for (; j + WIDTH <= count; j += WIDTH) {
        Vector rows[WIDTH], sum;
#pragma GCC unroll 16
        for (int k = 0; k < WIDTH; k++)
            rows[k] = products(q, keys + (j + k) * stride, width);
        transpose(rows);
        sum = rows[0];
#pragma GCC unroll 16
        for (int k = 1; k < WIDTH; k++)
            sum += rows[k];
        store(scores + j, sum);
    }
    for (; j < count; j++)
        scores[j] = sum_of(products(q, keys + j * stride, width));
    for (j = 0; width % WIDTH && j < count; j++)
        for (int64_t d = width - width % WIDTH; d < width; d++)
            scores[j] += q[d] * keys[j * stride + d];
}

/* Weights of scores that are in units of ln 2, in place; a vector more may be written. */
static void weigh(float *scores, int64_t count)
{
    Vector most = spread(scores[0]), total = {0};
    for (int64_t j = count; j % WIDTH; j++)
        scores[j] = -1e30f;
    for (int64_t j = 0; j < count; j += WIDTH)
        most = greater(most, load(scores + j));
    float maximum = most[0];
    for (int lane = 1; lane < WIDTH; lane++)
        maximum = most[lane] > maximum ? most[lane] : maximum;
    for (int64_t j = 0; j < count; j += WIDTH) {
        const Vector e = power_of_two(load(scores + j) - maximum);
        store(scores + j, e);
        total += e;
    }
    const float inverse = 1.0f / sum_of(total);
    for (int64_t j = 0; j < count; j += WIDTH)
        store(scores + j, load(scores + j) * inverse);
}

/* Σ w·v of `count` values. */
static void mix_values(const float *weights, const float *values, int64_t stride, int64_t count, int64_t width, float *output)
{
    int64_t d = 0;
    for (; d + 4 * WIDTH <= width; d += 4 * WIDTH) {
        Vector sum[4] = {{0}, {0}, {0}, {0}};
        for (int64_t j = 0; j < count; j++)
            for (int part = 0; part < 4; part++)
                sum[part] += load(values + j * stride + d + part * WIDTH) * weights[j];
        for (int part = 0; part < 4; part++)
            store(output + d + part * WIDTH, sum[part]);
    }
    for (; d + WIDTH <= width; d += WIDTH) {
        Vector sum = {0};
        for (int64_t j = 0; j < count; j++)
            sum += load(values + j * stride + d) * weights[j];
        store(output + d, sum);
    }
    for (; d < width; d++) {
        output[d] = 0.0f;
        for (int64_t j = 0; j < count; j++)
            output[d] += values[j * stride + d] * weights[j];
    }
}

#endif
