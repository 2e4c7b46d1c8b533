/* A matrix in the smallest form that keeps each of its numbers, for products with a few vectors at a time: such a product takes as long
   as it takes to read the matrix. Whatever the form, the arithmetic is that of float32. */

#ifndef KQV_MATRIX_H
#define KQV_MATRIX_H

#include <stdint.h>

#include "vector.h"

enum { BLOCK = 32, TILE = 4 };

/* How the numbers are kept. In the forms of few bits a block is BLOCK neighbours in a row, w = scale·q, with FOUR_BITS + offset. */
enum { FLOAT32, BFLOAT16, EIGHT_BITS, FOUR_BITS };

typedef struct {
    const void *numbers;   /* [rows][columns]; with FOUR_BITS a byte holds numbers j and j + BLOCK / 2 of its block */
    const float *scales;   /* [rows][blocks] */
    const float *offsets;  /* [rows][blocks], WIDTH more may be read past the end, if finite */
    const float *bias;     /* [rows]; or NULL */
    int64_t rows, columns;
    int64_t form;
} Matrix;

/* A few vectors side by side, each `stride` numbers from the next, a multiple of WIDTH. */
typedef struct {
    float *numbers;
    float *sums;        /* of each block, for offsets: see `add_up` */
    int64_t count, stride, sums_stride;
} Vectors;

/* How far apart vectors of so many numbers lie, and the sums of their blocks. */
INLINE int64_t whole_vectors(int64_t length) { return (length + WIDTH - 1) / WIDTH * WIDTH; }
INLINE int64_t sums_of(int64_t columns) { return whole_vectors(columns / BLOCK); }

/* Make the sums of each block, and zeros after them. */
void add_up(Vectors x, int64_t columns);

/* Rows first … last − 1 of the products, y[vector][row] = matrix · x + bias. */
void multiply(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride);

#endif
