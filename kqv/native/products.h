/* The two matrix products of attention: queries and keys make scores, weights and values make outputs. */

#ifndef KQV_PRODUCTS_H
#define KQV_PRODUCTS_H

#include "lanes.h"

enum { ROWS = 6 }; /* keys, or columns of values, that share what is read of the lanes */

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

#endif
