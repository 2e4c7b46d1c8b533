/* The smallest form of a matrix from which each of its numbers can be had back: found from the numbers themselves, and tried on them.

   Checkpoints that were quantised hold few different numbers: w = d·q + m of a block with whole q (GGUF's Q4_0, Q4_1 and Q8_0), or
   numbers of bfloat16. Zeros come back without their sign. NaN and infinities never come back, so that what holds them stays. */

#include <math.h>
#include <string.h>

#include "matrix.h"

/* The nearest number of float16, of which GGUF's scales are; x ≥ 0. */
static float as_half(float x)
{
    if (x < 6.103515625e-5f) /* there float16 has equal steps */
        return nearbyintf(x * 16777216.0f) / 16777216.0f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x0fff + ((bits >> 13) & 1)) & ~0x1fffu;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Whether block w is scale·q + offset with q from `low` to `high`; if so, it is there. */
static int fits(const float *w, float scale, float offset, float low, float high, int q[BLOCK])
{
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    int good = 1;
    for (int j = 0; j < BLOCK; j++) {
        const float number = nearbyintf((w[j] - offset) * inverse);
        good &= (scale * number + offset == w[j]) & (number >= low) & (number <= high);
        q[j] = good ? (int)number : 0;
    }
    return good;
}

/* 4 bits: the least number is the offset, and the greatest is 15 steps above it, or fewer where none was rounded to so much. */
static int shrink_to_four(const float *w, uint8_t *numbers, float *scale, float *offset)
{
    float least = w[0], most = w[0];
    for (int j = 1; j < BLOCK; j++) {
        least = w[j] < least ? w[j] : least;
        most = w[j] > most ? w[j] : most;
    }
    int q[BLOCK];
    for (int steps = 15; steps > 0; steps--) {
        *offset = least, *scale = as_half((most - least) / (float)steps);
        if (!fits(w, *scale, *offset, 0.0f, 15.0f, q))
            continue;
        for (int j = 0; j < BLOCK / 2; j++)
            numbers[j] = (uint8_t)(q[j] | q[j + BLOCK / 2] << 4);
        return 1;
    }
    return 0;
}

/* 8 bits: the greatest is 127 steps from 0. */
static int shrink_to_eight(const float *w, int8_t *numbers, float *scale)
{
    float most = 0.0f;
    for (int j = 0; j < BLOCK; j++)
        most = fabsf(w[j]) > most ? fabsf(w[j]) : most;
    int q[BLOCK];
    *scale = as_half(most / 127.0f);
    if (!fits(w, *scale, 0.0f, -128.0f, 127.0f, q))
        return 0;
    for (int j = 0; j < BLOCK; j++)
        numbers[j] = (int8_t)q[j];
    return 1;
}

static int shrink_to_halves(const float *w, int64_t count, uint16_t *numbers)
{
    uint32_t lost = 0;
    for (int64_t j = 0; j < count; j++) {
        uint32_t bits;
        memcpy(&bits, w + j, sizeof bits);
        lost |= bits & 0xffff;
        numbers[j] = (uint16_t)(bits >> 16);
    }
    return !lost;
}

static int shrink_row(const float *w, int64_t row, const Matrix *into)
{
    const int64_t columns = into->columns, blocks = columns / BLOCK;
    w += row * columns;
    if (into->form == BFLOAT16)
        return shrink_to_halves(w, columns, (uint16_t *)into->numbers + row * columns);
    for (int64_t block = 0; block < blocks; block++) {
        float *scale = (float *)into->scales + row * blocks + block, *offset = (float *)into->offsets + row * blocks + block;
        const int64_t at = row * columns + block * BLOCK;
        const float *own = w + block * BLOCK;
        if (into->form == FOUR_BITS ? !shrink_to_four(own, (uint8_t *)into->numbers + at / 2, scale, offset)
                                    : !shrink_to_eight(own, (int8_t *)into->numbers + at, scale))
            return 0;
    }
    return 1;
}

/* Fill `into`, whose form says how, from float32 numbers; 0 where they can't be kept in it, which is mostly seen at once. */
int kqv_shrink(const float *w, const Matrix *into)
{
    int failed = into->form != BFLOAT16 && into->columns % BLOCK;
#pragma omp parallel for schedule(static) if (into->rows * into->columns >= 1 << 16)
    for (int64_t row = 0; row < into->rows; row++) {
        int stop;
#pragma omp atomic read
        stop = failed;
        if (!stop && !shrink_row(w, row, into)) {
#pragma omp atomic write
            failed = 1;
        }
    }
    return !failed;
}
