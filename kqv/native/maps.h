/* The weights themselves, of the heads, queries and keys that somebody wants to see. */

#ifndef KQV_MAPS_H
#define KQV_MAPS_H

#include "call.h"
#include "lanes.h"

/* Whether any of the heads that share a key head is shown. */
INLINE int shows(const Map *map, int64_t key_head, int64_t shared)
{
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++)
        if (map->shown[head] >= 0)
            return 1;
    return 0;
}

/* Where the weights of vector c's lanes go, from the map's first key on; NULL for a lane that isn't shown. Lanes began at `first`. */
INLINE void find_rows(float *rows[WIDTH], const Lanes *lanes, const Call *call, const Map *map, int64_t key_head, int64_t first, int c)
{
    const int64_t shared = call->heads / call->key_heads;
    for (int own = 0; own < WIDTH; own++) {
        const int lane = c * WIDTH + own;
        const int64_t query = (first + lane) / shared - map->first_query, head = map->shown[key_head * shared + (first + lane) % shared];
        const int is_shown = lane < lanes->count && head >= 0 && query >= 0 && query < map->num_queries;
        rows[own] = is_shown ? map->weights + (head * map->num_queries + query) * map->num_keys : NULL;
    }
}

/* Write e/Σe of those of the tile's keys that are shown: across the lanes in the tile, along the keys in the map. */
static void write_tile(const Lanes *lanes, const Keys *keys, const Call *call, const Map *map, int64_t key_head, int64_t first)
{
    const int64_t before = map->first_key - keys->first, end = before + map->num_keys;
    const int from = before > 0 ? (int)(before < keys->count ? before : keys->count) : 0, to = end < keys->count ? (int)end : keys->count;
    for (int c = 0; c * WIDTH < lanes->count; c++) {
        const Vector total = lanes->total[c], inverse = pick(total > 0.0f, 1.0f / total, (Vector){0});
        float *rows[WIDTH];
        find_rows(rows, lanes, call, map, key_head, first, c);
        for (int j = from; j < to; j += WIDTH) {
            const int count = to - j < WIDTH ? to - j : WIDTH;
            Vector weights[WIDTH];
            for (int k = 0; k < WIDTH; k++)
                weights[k] = lanes->tile[j + (k < count ? k : 0)][c] * inverse;
            transpose(weights);
            for (int own = 0; own < WIDTH; own++)
                if (rows[own])
                    store_some(rows[own] + j - before, weights[own], count);
        }
    }
}

#endif
