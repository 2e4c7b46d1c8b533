/* A matrix in panels, for products with many vectors: a panel has PANEL neighbouring rows side by side, so that a few vectors' products
   with them fit into registers, and it is read from end to end. */

#ifndef KQV_PANELS_H
#define KQV_PANELS_H

#include "shape.h"

enum { TOGETHER = 6, PANEL_VECTORS = WIDTH == 16 ? 4 : 2, PANEL = PANEL_VECTORS * WIDTH, STRETCH = 128, AHEAD = 4096 };

/* What is done with products: kept, added to what there is, put through the activation, or multiplied with what there is. */
typedef enum { KEEP, ADD, ACTIVATE, MULTIPLY } Finish;

typedef struct {
    const float *numbers; /* [panels][columns][PANEL], zeros past the last row */
    const float *bias;    /* [panels][PANEL] */
    int64_t rows, columns;
} Panels;

/* Vectors side by side, each `stride` numbers from the next. */
typedef struct {
    float *numbers;
    int64_t stride;
} Many;

INLINE int64_t panels_of(int64_t rows) { return (rows + PANEL - 1) / PANEL; }

/* How far apart vectors of so many numbers lie, to which whole panels are written. */
INLINE int64_t stride_of(int64_t rows) { return panels_of(rows) * PANEL; }

/* Add the products of `count` vectors with some columns of a panel; `first` where nobody has read it just before. */
INLINE void multiply_tile(const float *panel, int64_t columns, Many x, Vector sum[TOGETHER][PANEL_VECTORS], const int count,
                          const int first)
{
    Vector own[TOGETHER][PANEL_VECTORS];
#pragma GCC unroll 6
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int c = 0; c < PANEL_VECTORS; c++)
            own[i][c] = (Vector){0};
    for (int64_t column = 0; column < columns; column++, panel += PANEL) {
        Vector numbers[PANEL_VECTORS];
#pragma GCC unroll 4
        for (int c = 0; c < PANEL_VECTORS; c++) {
            numbers[c] = load(panel + c * WIDTH);
            if (first)
                __builtin_prefetch((const char *)(panel + c * WIDTH) + AHEAD, 0, 2);
        }
#pragma GCC unroll 6
        for (int i = 0; i < count; i++)
#pragma GCC unroll 4
            for (int c = 0; c < PANEL_VECTORS; c++)
                own[i][c] += numbers[c] * x.numbers[i * x.stride + column];
    }
#pragma GCC unroll 6
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int c = 0; c < PANEL_VECTORS; c++)
            sum[i][c] += own[i][c];
}

/* The same with a copy of the code for each number of vectors. */
static void multiply_few(const float *panel, int64_t columns, Many x, Vector sum[TOGETHER][PANEL_VECTORS], int count, int first)
{
    switch (count) {
    case 1: multiply_tile(panel, columns, x, sum, 1, 1); break;
    case 2: multiply_tile(panel, columns, x, sum, 2, 1); break;
    case 3: multiply_tile(panel, columns, x, sum, 3, 1); break;
    case 4: multiply_tile(panel, columns, x, sum, 4, 1); break;
    case 5: multiply_tile(panel, columns, x, sum, 5, 1); break;
    default:
        if (first)
            multiply_tile(panel, columns, x, sum, TOGETHER, 1);
        else
            multiply_tile(panel, columns, x, sum, TOGETHER, 0);
    }
}

/* All columns of a panel. Stretches of them are summed up by themselves first, for sums of fewer numbers are rounded less. */
static void multiply_panel(const float *panel, const float *bias, int64_t columns, Many x, Vector sum[TOGETHER][PANEL_VECTORS], int count,
                           int first)
{
    for (int i = 0; i < count; i++)
        for (int c = 0; c < PANEL_VECTORS; c++)
            sum[i][c] = load(bias + c * WIDTH);
    for (int64_t column = 0; column < columns; column += STRETCH) {
        const int64_t left = columns - column, stretch = left < STRETCH ? left : STRETCH;
        multiply_few(panel + column * PANEL, stretch, (Many){x.numbers + column, x.stride}, sum, count, first);
    }
}

static void finish_tile(Vector sum[TOGETHER][PANEL_VECTORS], Many y, int count, Finish finish, int64_t activation)
{
    for (int i = 0; i < count; i++)
        for (int c = 0; c < PANEL_VECTORS; c++) {
            float *at = y.numbers + i * y.stride + c * WIDTH;
            switch (finish) {
            case KEEP: store(at, sum[i][c]); break;
            case ADD: store(at, load(at) + sum[i][c]); break;
            case ACTIVATE: store(at, activate(sum[i][c], activation)); break;
            case MULTIPLY: store(at, load(at) * sum[i][c]);
            }
        }
}

/* W x + b of `count` vectors, for the rows of panels first … last − 1. */
static void multiply_panels(const Panels *matrix, int64_t first, int64_t last, Many x, Many y, int64_t count, Finish finish,
                            int64_t activation)
{
    Vector sum[TOGETHER][PANEL_VECTORS];
    for (int64_t panel = first; panel < last; panel++)
        for (int64_t i = 0; i < count; i += TOGETHER) {
            const int few = count - i < TOGETHER ? (int)(count - i) : TOGETHER;
            const Many own = {x.numbers + i * x.stride, x.stride}, to = {y.numbers + i * y.stride + panel * PANEL, y.stride};
            multiply_panel(matrix->numbers + panel * PANEL * matrix->columns, matrix->bias + panel * PANEL, matrix->columns, own, sum,
                           few, i == 0);
            finish_tile(sum, to, few, finish, activation);
        }
}

#endif
