/* What is asked of the C part, as Python fills it in: kqv/native/attention.py has the same structures. */

#ifndef KQV_CALL_H
#define KQV_CALL_H

#include <stdint.h>

/* What is kept of a query, a plane [heads][tokens] each, in the order of `QUANTITIES` in kqv/attention/statistics.py. */
enum { LOGSUMEXP, ROW_SUM, FORBIDDEN, ENTROPY, MAX_WEIGHT, EFFECTIVE_TOKENS, TOP_K_MASS, DISTANCE, SELF, PREVIOUS, NEXT, FIRST,
       SPECIAL, DUPLICATE, INDUCTION, NUM_PLANES };

/* One sequence of the batch. */
typedef struct {
    const float *keys, *values; /* [num_keys][key heads][width]; values are read only for an output */
    const float *table;         /* [heads or 1][num_keys][num_queries]: added to the scores, −inf where masked; or NULL */
    const int32_t *ids;         /* each key's token; or NULL */
    const uint8_t *special;     /* whether a key is a special token; or NULL */
    int64_t start, num_queries, num_keys; /* its queries are tokens start … start + num_queries − 1 of the batch */
    int64_t table_stride;       /* from one head to the next, 0 where they share it */
    int32_t top_k;              /* how many of the largest weights to sum, at most GROUP */
    int32_t same;               /* whether queries and keys are the same tokens, the queries being the last of the keys */
} Sequence;

/* The part of one sequence's maps that is kept. */
typedef struct {
    float *weights;       /* [shown heads][num_queries][num_keys], zeros, of which what is seen is written; or NULL: nothing is kept */
    const int32_t *shown; /* [heads]: which of the shown heads each is; −1 for one that isn't shown */
    int64_t first_query, num_queries, first_key, num_keys;
} Map;

typedef struct {
    const float *queries;      /* [tokens][heads][width] */
    float *output;             /* [tokens][heads][width], contiguous; or NULL: maps alone */
    float *quantities;         /* [planes][heads][tokens], beside an output; or NULL */
    const int32_t *low, *high; /* [tokens]: a query sees the keys low … high − 1 of its sequence */
    const float *bias;         /* [heads][bias_length]: what is added at query i and key j lies at i − j + bias_zero; or NULL */
    const Sequence *sequences;
    const Map *maps;           /* [sequences]; or NULL: none is kept */
    int64_t num_sequences, tokens, heads, key_heads, width;
    int64_t query_stride, key_stride, value_stride; /* from one token to the next */
    int64_t bias_length, bias_zero;
    float scale;
} Call;

/* Attend for the whole batch. */
void kqv_attend(const Call *call);

#endif
