/* What is told of heads and sequences once attention is done: how long each output is behind its projection, and sums over queries. */

#include <math.h>
#include <omp.h>

#include "figures.h"
#include "lanes.h"
#include "products.h"

/* ‖R z‖ of up to LANES neighbouring tokens of a head; idle lanes repeat the last one. */
static void measure(Lanes *lanes, const Lengths *asked, int64_t head, int64_t first, int count)
{
    const float *outputs[WIDTH], *factors = asked->factors + head * asked->rows * asked->width;
    Vector squares[VECTORS] = {0};
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t token = first + (lane < count ? lane : count - 1);
        outputs[lane % WIDTH] = asked->outputs + (token * asked->heads + head) * asked->width;
        if (lane % WIDTH == WIDTH - 1)
            load_queries(lanes, lane / WIDTH, outputs, asked->width, 1.0f);
    }
    for (int64_t row = 0; row < asked->rows; row += KEYS) {
        const int rows = asked->rows - row < KEYS ? (int)(asked->rows - row) : KEYS;
        score_tile(lanes, factors + row * asked->width, rows, asked->width, VECTORS);
        for (int j = 0; j < rows; j++)
            for (int c = 0; c < VECTORS; c++)
                squares[c] += lanes->tile[j][c] * lanes->tile[j][c];
    }
    for (int lane = 0; lane < count; lane++)
        asked->lengths[head * asked->tokens + first + lane] = sqrtf(squares[lane / WIDTH][lane % WIDTH]);
}

void kqv_lengths(const Lengths *asked)
{
    static _Thread_local Lanes lanes __attribute__((aligned(64)));
    const int64_t blocks = (asked->tokens + LANES - 1) / LANES;
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (int64_t task = 0; task < blocks * asked->heads; task++) {
        const int64_t first = task / asked->heads * LANES, left = asked->tokens - first;
        measure(&lanes, asked, task % asked->heads, first, left < LANES ? (int)left : LANES);
    }
}

INLINE float sum_products(const float *x, const float *y, int64_t count)
{
    Vector sums = {0};
    float sum = 0;
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH)
        sums += load(x + i) * load(y + i);
    for (; i < count; i++)
        sum += x[i] * y[i];
    for (int lane = 0; lane < WIDTH; lane++)
        sum += sums[lane];
    return sum;
}

void kqv_sums(const Sums *asked)
{
    const int64_t rows = asked->num_planes * asked->heads;
#pragma omp parallel for schedule(static) if (rows * asked->tokens > 100000)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t plane = row / asked->heads, head = row % asked->heads;
        const int64_t stride = asked->counted_stride, heads = stride ? asked->heads : 1;
        const float *values = asked->planes[plane] + head * asked->tokens;
        const float *counted = asked->counted + plane * heads * asked->tokens + head * stride;
        for (int64_t s = 0, start = 0; s < asked->num_sequences; start = asked->ends[s++])
            asked->sums[row * asked->num_sequences + s] = sum_products(values + start, counted + start, asked->ends[s] - start);
    }
}
