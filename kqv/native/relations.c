/* Whether each query may see a key that is in a relation to it: the same as `look_along` in kqv/attention/sight.py. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* In the order of `RELATIONS` in kqv/attention/relations.py. */
enum { DISTANCE, SELF, PREVIOUS, NEXT, FIRST, SPECIAL, DUPLICATE, INDUCTION };

/* What is known of a sequence. */
typedef struct {
    const int32_t *ids; /* each key's token, where the queries are the last of the keys; or NULL */
    int64_t queries, keys;
    int32_t same, has_special; /* whether queries and keys are the same tokens; whether a key is a special one */
} Known;

typedef struct {
    const int32_t *low, *high; /* [tokens]: a query sees the keys low … high − 1 of its sequence */
    const Known *sequences;
    uint8_t *related; /* [relations][tokens] */
    int64_t num_sequences, tokens;
} Relations;

/* A key's neighbours with the same token: −1 where there is none before it, INT32_MAX where there is none after it. */
typedef struct {
    int32_t before, after;
} Equal;

/* Find them, by a table that has the last key of each token so far; it has `size` places, a power of 2, of which half stay free. */
static void find_equal(const int32_t *ids, int64_t count, Equal *equal, int32_t *table, uint32_t size)
{
    memset(table, -1, size * sizeof *table);
    for (int32_t j = 0; j < count; j++) {
        uint32_t place = (uint32_t)ids[j] * 2654435769u % size;
        while (table[place] >= 0 && ids[table[place]] != ids[j])
            place = (place + 1) % size;
        equal[j] = (Equal){table[place], INT32_MAX};
        if (table[place] >= 0)
            equal[table[place]].after = j;
        table[place] = j;
    }
}

/* The nearest key that follows an earlier one with the token of key j, and comes before j itself; −1 where there is none. */
static int32_t follower_of(const Equal *equal, int32_t j)
{
    int32_t found = equal[j].before;
    if (found >= 0 && found == j - 1)
        found = equal[found].before; /* after its neighbour comes j itself */
    return found >= 0 ? found + 1 : -1;
}

/* The queries of a sequence, which begin at token `start` of the batch; `equal` is NULL where their tokens can't be compared. */
static void relate(const Relations *asked, const Known *known, int64_t start, const Equal *equal)
{
    for (int64_t query = 0; query < known->queries; query++) {
        const int64_t token = start + query, place = query + known->keys - known->queries;
        const int32_t low = asked->low[token], high = asked->high[token];
        uint8_t *related = asked->related + token;
        related[DISTANCE * asked->tokens] = related[SELF * asked->tokens] = known->same;
        related[PREVIOUS * asked->tokens] = known->same && place >= 1;
        related[NEXT * asked->tokens] = known->same && place + 1 < high;
        related[FIRST * asked->tokens] = 1;
        related[SPECIAL * asked->tokens] = known->has_special;
        related[DUPLICATE * asked->tokens] = equal && (equal[place].before >= low || equal[place].after < high);
        related[INDUCTION * asked->tokens] = equal && follower_of(equal, (int32_t)place) >= low;
    }
}

/* For the whole batch; 0 where there is no memory for it. */
int kqv_relate(const Relations *asked)
{
    int64_t most = 0, start = 0;
    for (int64_t s = 0; s < asked->num_sequences; s++)
        most = asked->sequences[s].keys > most ? asked->sequences[s].keys : most;
    uint32_t size = 16;
    while (size < 2 * most)
        size *= 2;
    Equal *equal = malloc(most * sizeof *equal);
    int32_t *table = malloc(size * sizeof *table);
    if (equal && table)
        for (int64_t s = 0; s < asked->num_sequences; start += asked->sequences[s++].queries) {
            const Known *known = asked->sequences + s;
            if (known->ids)
                find_equal(known->ids, known->keys, equal, table, size);
            relate(asked, known, start, known->ids ? equal : NULL);
        }
    const int done = equal && table;
    free(equal);
    free(table);
    return done;
}
