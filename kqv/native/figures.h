/* What is told of heads and sequences once attention is done. */

#ifndef KQV_FIGURES_H
#define KQV_FIGURES_H

#include <stdint.h>

typedef struct {
    const float *outputs; /* [tokens][heads][width] */
    const float *factors; /* [heads][rows][width] */
    float *lengths;       /* [heads][tokens] */
    int64_t tokens, heads, rows, width;
} Lengths;

typedef struct {
    const float *const *planes; /* [num_planes]: [heads][tokens] each */
    const float *counted;       /* [num_planes][heads or 1][tokens]: 1 where a query counts, else 0 */
    const int64_t *ends;        /* [num_sequences]: one past each sequence's last token */
    float *sums;                /* [num_planes][heads][num_sequences] */
    int64_t num_planes, heads, tokens, num_sequences;
    int64_t counted_stride; /* from one head to the next, 0 where they share it */
} Sums;

/* The length of every head's output. */
void kqv_lengths(const Lengths *asked);

/* The sums over those queries of each sequence that count. */
void kqv_sums(const Sums *asked);

#endif
