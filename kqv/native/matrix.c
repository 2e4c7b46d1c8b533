/* Products of a matrix with a few vectors. Each number of the matrix is read once, and multiplied with all vectors while it is there. */

#include <omp.h>
#include <string.h>

#include "matrix.h"

enum { PARTS = BLOCK / WIDTH, TOGETHER = 4, AHEAD = 8192 };

typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));

/* Ask for what will be read AHEAD bytes later: rows are short, and memory is slow to begin with each. Into the second cache: the first
   would take fewer of such questions at a time. */
INLINE void fetch(const void *from, int64_t bytes)
{
    for (int64_t line = 0; line < bytes; line += 64)
        __builtin_prefetch((const char *)from + AHEAD + line, 0, 2);
}

/* A block's numbers, before its scale and offset. */
INLINE void read_block(const Matrix *matrix, int64_t row, int64_t block, Vector numbers[PARTS], const int form)
{
    const int64_t at = row * matrix->columns + block * BLOCK;
    if (form == FOUR_BITS) {
        const uint8_t *from = (const uint8_t *)matrix->numbers + at / 2;
        fetch(from, BLOCK / 2);
#pragma GCC unroll 8
        for (int part = 0; part < PARTS / 2; part++) {
            const Integers wide = widen(from + part * WIDTH);
            numbers[part] = __builtin_convertvector(wide & 15, Vector);
            numbers[part + PARTS / 2] = __builtin_convertvector(wide >> 4, Vector);
        }
    } else if (form == EIGHT_BITS) {
        const int8_t *from = (const int8_t *)matrix->numbers + at;
        fetch(from, BLOCK);
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) {
            numbers[part] = __builtin_convertvector(widen_signed(from + part * WIDTH), Vector);
        }
    } else if (form == BFLOAT16) {
        const uint16_t *from = (const uint16_t *)matrix->numbers + at;
        fetch(from, 2 * BLOCK);
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) {
            Halves halves;
            memcpy(&halves, from + part * WIDTH, sizeof halves);
            numbers[part] = (Vector)(__builtin_convertvector(halves, Integers) << 16);
        }
    } else {
        const float *from = (const float *)matrix->numbers + at;
        fetch(from, 4 * BLOCK);
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++)
            numbers[part] = load(from + part * WIDTH);
    }
}

/* One number of those forms that need no whole blocks. */
INLINE float read_one(const Matrix *matrix, int64_t at, const int form)
{
    if (form == FLOAT32)
        return ((const float *)matrix->numbers)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)matrix->numbers)[at] << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* `rows` outputs from `row` on, of `count` vectors from x on. */
INLINE void multiply_tile(const Matrix *matrix, int64_t row, Vectors x, float *y, int64_t y_stride, const int form, const int rows,
                          const int count)
{
    const int64_t blocks = matrix->columns / BLOCK;
    Vector sum[TILE][TOGETHER];
#pragma GCC unroll 8
    for (int o = 0; o < rows; o++)
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
            sum[o][r] = (Vector){0};
    for (int64_t block = 0; block < blocks; block++)
#pragma GCC unroll 8
        for (int o = 0; o < rows; o++) {
            Vector numbers[PARTS];
            read_block(matrix, row + o, block, numbers, form);
#pragma GCC unroll 8
            for (int r = 0; r < count; r++) {
                const float *own = x.numbers + r * x.stride + block * BLOCK;
                if (form == FOUR_BITS || form == EIGHT_BITS) {
                    Vector within = numbers[0] * load(own);
#pragma GCC unroll 8
                    for (int part = 1; part < PARTS; part++)
                        within += numbers[part] * load(own + part * WIDTH);
                    sum[o][r] += within * matrix->scales[(row + o) * blocks + block];
                } else
#pragma GCC unroll 8
                    for (int part = 0; part < PARTS; part++)
                        sum[o][r] += numbers[part] * load(own + part * WIDTH);
            }
        }
    for (int64_t block = 0; form == FOUR_BITS && block < blocks; block += WIDTH)
#pragma GCC unroll 8
        for (int o = 0; o < rows; o++)
#pragma GCC unroll 8
            for (int r = 0; r < count; r++)
                sum[o][r] += load(matrix->offsets + (row + o) * blocks + block) * load(x.sums + r * x.sums_stride + block);
#pragma GCC unroll 8
    for (int o = 0; o < rows; o++)
#pragma GCC unroll 8
        for (int r = 0; r < count; r++) {
            float total = sum_of(sum[o][r]);
            for (int64_t column = blocks * BLOCK; column < matrix->columns; column++)
                total += read_one(matrix, (row + o) * matrix->columns + column, form) * x.numbers[r * x.stride + column];
            y[r * y_stride + row + o] = total + (matrix->bias ? matrix->bias[row + o] : 0.0f);
        }
}

INLINE void multiply_tiles(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride, const int form,
                           const int count)
{
    int64_t row = first;
    for (; row + TILE <= last; row += TILE)
        multiply_tile(matrix, row, x, y, y_stride, form, TILE, count);
    for (; row < last; row++)
        multiply_tile(matrix, row, x, y, y_stride, form, 1, count);
}

/* A copy of the code for each number of vectors; more of them go over a stretch of rows again, which is in the cache by then. */
INLINE void multiply_all(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride, const int form)
{
    int64_t stretch = last - first;
    if (x.count > TOGETHER)
        stretch = 8 * TILE;
    for (int64_t start = first; start < last; start += stretch) {
        const int64_t end = start + stretch < last ? start + stretch : last;
        Vectors own = x;
        float *to = y;
        for (int64_t left = x.count; left > 0;) {
            const int64_t count = left >= TOGETHER ? TOGETHER : left >= 2 ? 2 : 1;
            switch (count) {
            case TOGETHER: multiply_tiles(matrix, start, end, own, to, y_stride, form, TOGETHER); break;
            case 2: multiply_tiles(matrix, start, end, own, to, y_stride, form, 2); break;
            default: multiply_tiles(matrix, start, end, own, to, y_stride, form, 1);
            }
            left -= count, own.numbers += count * x.stride, own.sums += count * x.sums_stride, to += count * y_stride;
        }
    }
}

static void multiply_four_bits(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride)
{
    multiply_all(matrix, first, last, x, y, y_stride, FOUR_BITS);
}

static void multiply_eight_bits(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride)
{
    multiply_all(matrix, first, last, x, y, y_stride, EIGHT_BITS);
}

static void multiply_bfloat16(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride)
{
    multiply_all(matrix, first, last, x, y, y_stride, BFLOAT16);
}

static void multiply_float32(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride)
{
    multiply_all(matrix, first, last, x, y, y_stride, FLOAT32);
}

void multiply(const Matrix *matrix, int64_t first, int64_t last, Vectors x, float *y, int64_t y_stride)
{
    switch (matrix->form) {
    case FOUR_BITS: multiply_four_bits(matrix, first, last, x, y, y_stride); break;
    case EIGHT_BITS: multiply_eight_bits(matrix, first, last, x, y, y_stride); break;
    case BFLOAT16: multiply_bfloat16(matrix, first, last, x, y, y_stride); break;
    default: multiply_float32(matrix, first, last, x, y, y_stride);
    }
}

void add_up(Vectors x, int64_t columns)
{
    for (int64_t r = 0; r < x.count; r++) {
        float *sums = x.sums + r * x.sums_stride;
        for (int64_t block = 0; block < columns / BLOCK; block++) {
            const float *own = x.numbers + r * x.stride + block * BLOCK;
            Vector sum = load(own);
#pragma GCC unroll 8
            for (int part = 1; part < PARTS; part++)
                sum += load(own + part * WIDTH);
            sums[block] = sum_of(sum);
        }
        for (int64_t block = columns / BLOCK; block < sums_of(columns); block++)
            sums[block] = 0.0f;
    }
}

/* The whole product by itself, y [count][rows] of x [count][columns]; `sums` is room for count · sums_of(columns) numbers. */
void kqv_multiply(const Matrix *matrix, float *x, int64_t count, float *sums, float *y)
{
    const Vectors all = {x, sums, count, matrix->columns, sums_of(matrix->columns)};
    add_up(all, matrix->columns);
    const int64_t tiles = (matrix->rows + TILE - 1) / TILE;
#pragma omp parallel if (matrix->rows * matrix->columns >= 1 << 16)
    {
        const int64_t threads = omp_get_num_threads(), own = omp_get_thread_num();
        const int64_t first = tiles * own / threads * TILE, last = tiles * (own + 1) / threads * TILE;
        multiply(matrix, first, last < matrix->rows ? last : matrix->rows, all, y, matrix->rows);
    }
}
