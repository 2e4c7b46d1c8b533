/* Vectors of as many floats as the machine handles at once, by the compiler's own extension: no instruction is named here but those
   that the extension has no word for. */

#ifndef KQV_VECTOR_H
#define KQV_VECTOR_H

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
enum { WIDTH = 16 };
#elif defined(__AVX2__)
#include <immintrin.h>
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));
typedef float Unaligned __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE Vector spread(float x) { return x - (Vector){0}; }
INLINE Vector load(const float *from) { return *(const Unaligned *)from; }
INLINE void store(float *to, Vector x) { *(Unaligned *)to = x; }

/* Store the first `count` lanes. */
INLINE void store_some(float *to, Vector x, int count)
{
    if (count == WIDTH)
        store(to, x);
    else
        for (int lane = 0; lane < count; lane++)
            to[lane] = x[lane];
}

INLINE Vector pick(Integers condition, Vector yes, Vector no) 
{
    return (Vector)((condition & (Integers)yes) | (~condition & (Integers)no));
}
INLINE Vector absolute(Vector x) { return (Vector)((Integers)x & 0x7fffffff); }

/* The greater of two numbers; a select is what the extension offers, and it takes two instructions where these take one. */
INLINE Vector greater(Vector a, Vector b)
{
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (Vector)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Vector)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return pick(a > b, a, b);
#endif
}

INLINE Vector smaller(Vector a, Vector b)
{
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (Vector)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Vector)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return pick(a < b, a, b);
#endif
}

/* Σ of all lanes: halves are added, then halves of these. */
INLINE float sum_of(Vector x)
{
#pragma GCC unroll 4
    for (int size = WIDTH / 2; size > 0; size /= 2) {
        Integers other;
        for (int lane = 0; lane < WIDTH; lane++)
            other[lane] = lane ^ size;
        x += __builtin_shuffle(x, other);
    }
    return x[0];
}

/* WIDTH bytes as integers; the compiler's own conversion takes a detour. */
INLINE Integers widen(const uint8_t *from)
{
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (Integers)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
    return (Integers)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
    return (Integers){from[0], from[1], from[2], from[3]};
#endif
}

INLINE Integers widen_signed(const int8_t *from)
{
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (Integers)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
    return (Integers)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
    return (Integers){from[0], from[1], from[2], from[3]};
#endif
}

/* Whether a > b anywhere. */
INLINE int any_greater(Vector a, Vector b)
{
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#else
    Integers found = a > b;
    int any = 0;
    for (int lane = 0; lane < WIDTH; lane++)
        any |= found[lane];
    return any != 0;
#endif
}

/* 2^x for x ≤ 0, within 4 units in the last place, exact at 0; what is under 2^−126 becomes that. 2^n·2^r with |r| ≤ ½, and 2^r by the
   polynomial of degree 5 through (0, 1) with the least relative error, 9.2e-8. */
INLINE Vector power_of_two(Vector x)
{
    const float round = 12582912.0f; /* 1.5·2^23: adding it leaves a whole number in the last bits */
    x = greater(x, spread(-126.0f));
    const Vector shifted = x + round, r = x - (shifted - round);
    Vector p = spread(1.326472725e-3f);
    p = p * r + 9.671512688e-3f;
    p = p * r + 5.550733744e-2f;
    p = p * r + 2.402224208e-1f;
    p = p * r + 6.931469776e-1f;
    p = p * r + 1.0f;
    return (Vector)((Integers)p + ((Integers)shifted << 23));
}

/* Swap rows and columns of WIDTH vectors: halves of twice the size change places, then smaller and smaller ones. */
INLINE void transpose(Vector rows[WIDTH])
{
#pragma GCC unroll 4
    for (int size = WIDTH / 2; size > 0; size /= 2) {
        Integers upper, lower;
        for (int lane = 0; lane < WIDTH; lane++) {
            upper[lane] = lane & size ? lane - size + WIDTH : lane;
            lower[lane] = lane & size ? lane + WIDTH : lane + size;
        }
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            if (!(i & size)) {
                const Vector first = rows[i], second = rows[i + size];
                rows[i] = __builtin_shuffle(first, second, upper);
                rows[i + size] = __builtin_shuffle(first, second, lower);
            }
    }
}

#endif
