/* Biases, masks, and the certificate that what is masked has no weight. */

#ifndef KQV_MASKS_H
#define KQV_MASKS_H

#include "lanes.h"

/* One number for each lane of a vector: where neighbours lie beside each other they are read at once. */
INLINE Vector gather(const float *const at[LANES], int c, int64_t offset, int neighbours)
{
    if (neighbours)
        return load(at[c * WIDTH] + offset);
    Vector gathered;
    for (int lane = 0; lane < WIDTH; lane++)
        gathered[lane] = at[c * WIDTH + lane][offset];
    return gathered;
}

/* Add biases, hide what is masked; `base` is the tile's first key. */
INLINE void bias_and_mask(Lanes *lanes, const Sequence *sequence, int base, int count, int partial, const int vectors)
{
    for (int j = 0; j < count; j++)
        for (int c = 0; c < vectors; c++) {
            Vector score = lanes->tile[j][c];
            if (lanes->bias[0])
                score += gather(lanes->bias, c, -(base + j), lanes->neighbours) * LOG2E;
            if (lanes->table[0])
                score += gather(lanes->table, c, (base + j) * sequence->num_queries, lanes->neighbours) * LOG2E;
            if (partial)
                score = pick((lanes->low[c] <= base + j) & (lanes->high[c] > base + j), score, spread(NOTHING));
            lanes->tile[j][c] = greater(score, spread(NOTHING));
        }
}

/* Largest weight that a hidden key got, after exp: a certificate, which is zero unless this file is wrong. */
INLINE void certify(Lanes *lanes, const Sequence *sequence, int base, int count, const int vectors)
{
    for (int j = 0; j < count; j++)
        for (int c = 0; c < vectors; c++) {
            Integers hidden = (lanes->low[c] > base + j) | (lanes->high[c] <= base + j);
            if (lanes->table[0])
                hidden |= gather(lanes->table, c, (base + j) * sequence->num_queries, lanes->neighbours) < HIDDEN;
            lanes->forbidden[c] = greater(lanes->forbidden[c], pick(hidden, lanes->tile[j][c], (Vector){0}));
        }
}

#endif
