/* What layers are made of besides matrices and attention: sizes, norms, rotations, activations. */

#ifndef KQV_SHAPE_H
#define KQV_SHAPE_H

#include <math.h>

#include "vector.h"

enum { RELU, GELU, GELU_TANH, SILU };

typedef struct {
    int64_t width, heads, key_heads, head_width, inner;
    int64_t root_mean_square, norm_first, gated, activation;
    float epsilon, scale;
} Shape;

typedef struct {
    const float *weight, *bias; /* a norm by the root mean square has no bias; no weight: no norm */
} Norm;

/* y may be x. */
static void normalize(const Shape *shape, Norm norm, const float *x, float *y)
{
    const int64_t width = shape->width, whole = width - width % WIDTH;
    Vector sum = {0}, squares = {0};
    float mean = 0.0f;
    if (!shape->root_mean_square) {
        for (int64_t d = 0; d < whole; d += WIDTH)
            sum += load(x + d);
        mean = sum_of(sum);
        for (int64_t d = whole; d < width; d++)
            mean += x[d];
        mean /= (float)width;
    }
    for (int64_t d = 0; d < whole; d += WIDTH)
        squares += (load(x + d) - mean) * (load(x + d) - mean);
    float total = sum_of(squares);
    for (int64_t d = whole; d < width; d++)
        total += (x[d] - mean) * (x[d] - mean);
    const float factor = 1.0f / sqrtf(total / (float)width + shape->epsilon);
    for (int64_t d = 0; d < width; d++)
        y[d] = (x[d] - mean) * factor * norm.weight[d] + (norm.bias ? norm.bias[d] : 0.0f);
}

/* Factors for a norm of one head by the root mean square, in place. */
static void normalize_head(float *x, const float *weight, int64_t width, float epsilon)
{
    float squares = 0.0f;
    for (int64_t d = 0; d < width; d++)
        squares += x[d] * x[d];
    const float factor = 1.0f / sqrtf(squares / (float)width + epsilon);
    for (int64_t d = 0; d < width; d++)
        x[d] = x[d] * factor * weight[d];
}

/* Turn the i-th and the (i + width/2)-th number of a head as a pair. */
static void turn(float *x, const float *cosines, const float *sines, int64_t width)
{
    for (int64_t i = 0, half = width / 2; i < half; i++) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cosines[i] - second * sines[i];
        x[i + half] = second * cosines[i] + first * sines[i];
    }
}

/* erf x, within 2.2e-7. x·p(2x²/14 − 1), where p is the polynomial of degree 14 that leaves erf the least error up to √14, from where on
   it is 1 to the last bit but one. */
INLINE Vector error_function(Vector x)
{
    static const float p[15] = {7.8696548e-4f,  -2.11395952e-3f, 2.01739324e-3f,  -3.05631314e-3f, 8.77008867e-3f,
                                -1.63668171e-2f, 2.47604009e-2f, -3.70901413e-2f, 5.33509292e-2f,  -7.1437791e-2f,
                                9.07151774e-2f, -1.12060405e-1f, 1.3952373e-1f,   -1.88433424e-1f, 3.77895385e-1f};
    const Vector within = greater(smaller(x, spread(3.74165739f)), spread(-3.74165739f));
    const Vector place = within * within * (2.0f / 14.0f) - 1.0f;
    Vector sum = spread(p[0]);
#pragma GCC unroll 14
    for (int i = 1; i < 15; i++)
        sum = sum * place + p[i];
    return within * sum;
}

/* x · σ(z). */
INLINE Vector gate(Vector x, Vector z)
{
    const Vector e = power_of_two(absolute(z) * -1.44269504088896341f);
    return x * pick(z < 0.0f, e, spread(1.0f)) / (e + 1.0f);
}

INLINE Vector activate(Vector x, int64_t activation)
{
    switch (activation) {
    case RELU: return greater(x, (Vector){0});
    case SILU: return gate(x, x);
    case GELU_TANH: return gate(x, (x + x * x * x * 0.044715f) * 1.59576912160573072f); /* ½(1 + tanh z) = σ(2z), 2√(2/π) */
    default: return 0.5f * x * (1.0f + error_function(x * 0.707106781186547524f));
    }
}

#endif
