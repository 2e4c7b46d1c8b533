/* Attention of a whole packed batch in one call, with the statistics of every query's softmax beside its output.

   The same numbers as kqv/attention/streaming.py, for float32 on the CPU. Scores are made in tiles of KEYS keys × LANES lanes, which
   never leave the cache. A lane is one query of one head, so that a sum over keys is a plain addition of vectors; the lanes of a tile
   share their keys and values, which are read where they lie. A further tile rescales what there is to the larger maximum. */

#include <omp.h>

#include "lanes.h"
#include "maps.h"
#include "masks.h"
#include "products.h"
#include "statistics.h"

enum { PARTS = 4 }; /* of the queries, which share each tile of keys */

/* A thread's working memory. Where there are many queries, several parts of them share each tile's keys. */
typedef struct {
    Lanes lanes[PARTS];
    Keys keys;
} Scratch;

/* Where the tile is; keys of another sequence are nowhere. */
INLINE int side_of(const Lanes *lanes, const Keys *keys, const Sequence *sequence)
{
    const int last = lanes->count - 1;
    if (sequence->same && keys->first + keys->count - 1 < (int)lanes->place[0][0])
        return BEFORE;
    return sequence->same && keys->first > (int)lanes->place[last / WIDTH][last % WIDTH] ? AFTER : ABOUT;
}

/* Whether some lane doesn't see some of the keys. */
INLINE int is_partial(const Lanes *lanes, const Keys *keys)
{
    return keys->first < lanes->full_from || keys->first + keys->count > lanes->full_to;
}

/* The lanes' scores of one tile of keys. */
INLINE void score(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence, const int vectors)
{
    const int partial = is_partial(lanes, keys);
    score_tile(lanes, keys->keys, keys->count, call->width, vectors);
    if (partial || lanes->bias[0] || lanes->table[0])
        bias_and_mask(lanes, sequence, keys->first, keys->count, partial, vectors);
}

/* Let the lanes see one tile of keys. */
INLINE void see(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence, const int vectors, const int statistics)
{
    const int count = keys->count, partial = is_partial(lanes, keys);
    score(lanes, keys, call, sequence, vectors);
    for (int j = count; j % STRETCH; j++)
        for (int c = 0; c < vectors; c++)
            lanes->tile[j][c] = spread(NOTHING);
    if (statistics)
        note_scores(lanes, keys->first, count, vectors);
    rescale(lanes, keys->first, count, call->width, vectors, statistics);
    const int masked = partial || count % GROUP || lanes->table[0];
    exponentiate_by(lanes, keys, masked, side_of(lanes, keys, sequence), vectors, statistics);
    if (statistics) {
        relate(lanes, keys, vectors);
        if (partial || lanes->table[0])
            certify(lanes, sequence, keys->first, count, vectors);
        for (int j = 0; j < count; j++)
            for (int c = 0; c < vectors; c++)
                lanes->row_sum[c] += lanes->tile[j][c];
    }
    if (call->output)
        add_values(lanes, keys->values, count, call->width, vectors);
}

INLINE void see_by(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence, const int vectors)
{
    if (call->quantities)
        see(lanes, keys, call, sequence, vectors, 1);
    else
        see(lanes, keys, call, sequence, vectors, 0);
}

/* The same for as many vectors as are in use, a copy of the code for each. */
static void see_keys(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence)
{
    switch ((lanes->count + WIDTH - 1) / WIDTH) {
    case 1: see_by(lanes, keys, call, sequence, 1); break;
    case 2: see_by(lanes, keys, call, sequence, 2); break;
    case 3: see_by(lanes, keys, call, sequence, 3); break;
    default: see_by(lanes, keys, call, sequence, 4);
    }
}

/* A tile's e once more, where further keys have been seen since: now that the maximum is that of all. */
INLINE void weigh(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence, const int vectors)
{
    score(lanes, keys, call, sequence, vectors);
    for (int j = 0; j < keys->count; j++)
        for (int c = 0; c < vectors; c++)
            lanes->tile[j][c] = weight(lanes->tile[j][c], lanes->maximum[c]);
}

static void weigh_keys(Lanes *lanes, const Keys *keys, const Call *call, const Sequence *sequence)
{
    switch ((lanes->count + WIDTH - 1) / WIDTH) {
    case 1: weigh(lanes, keys, call, sequence, 1); break;
    case 2: weigh(lanes, keys, call, sequence, 2); break;
    case 3: weigh(lanes, keys, call, sequence, 3); break;
    default: weigh(lanes, keys, call, sequence, 4);
    }
}

/* The outputs of vector c, across its lanes, kept; along each, written. */
static void store_outputs(const Lanes *lanes, const Call *call, int c, float *const outputs[WIDTH], int used)
{
    const Vector total = lanes->total[c], inverse = pick(total > 0.0f, 1.0f / total, (Vector){0});
    Vector rows[WIDTH];
    int64_t e = 0;
    for (; e + WIDTH <= call->width; e += WIDTH) {
        for (int own = 0; own < WIDTH; own++)
            rows[own] = lanes->output[e + own][c] * inverse;
        transpose(rows);
        for (int own = 0; own < used; own++)
            store(outputs[own] + e, rows[own]);
    }
    for (; e < call->width; e++)
        for (int own = 0; own < used; own++)
            outputs[own][e] = lanes->output[e][c][own] * inverse[own];
}

/* Write out the lanes, which began at `first`. A query that sees no key has output 0 and a log-sum-exp of −inf. */
static void finish(const Lanes *lanes, const Call *call, const Sequence *sequence, int64_t key_head, int64_t first)
{
    const int64_t shared = call->heads / call->key_heads, next = call->heads * call->tokens;
    for (int c = 0; c * WIDTH < lanes->count; c++) {
        const int left = lanes->count - c * WIDTH, used = left < WIDTH ? left : WIDTH;
        float *outputs[WIDTH], *places[WIDTH];
        for (int own = 0; own < used; own++) {
            const int64_t index = first + c * WIDTH + own, head = key_head * shared + index % shared;
            const int64_t token = sequence->start + index / shared;
            outputs[own] = call->output + (token * call->heads + head) * call->width;
            places[own] = call->quantities ? call->quantities + head * call->tokens + token : NULL;
        }
        store_outputs(lanes, call, c, outputs, used);
        if (!call->quantities)
            continue;
        Vector planes[NUM_PLANES];
        summarize(lanes, sequence, c, planes);
        for (int plane = 0; plane < NUM_PLANES; plane++)
            if (lanes->neighbours && used == WIDTH)
                store(places[0] + plane * next, planes[plane]);
            else
                for (int own = 0; own < used; own++)
                    places[own][plane * next] = planes[plane][own];
    }
}

/* How one sequence's lanes are cut: into as few parts as there must be, of equal size; up to `together` of them make a task. */
typedef struct {
    int64_t lanes, size, together, tasks;
} Cut;

static Cut cut(const Call *call, const Sequence *sequence, int64_t together)
{
    const int64_t lanes = sequence->num_queries * (call->heads / call->key_heads), least = (lanes + LANES - 1) / LANES;
    const int64_t size = ((lanes + least - 1) / least + WIDTH - 1) / WIDTH * WIDTH, parts = (lanes + size - 1) / size;
    return (Cut){lanes, size, together, (parts + together - 1) / together};
}

static int64_t count_tasks(const Call *call, int64_t together)
{
    int64_t tasks = 0;
    for (int64_t s = 0; s < call->num_sequences; s++)
        tasks += cut(call, call->sequences + s, together).tasks * call->key_heads;
    return tasks;
}

/* Whether some of a part's lanes see any of the keys from `first` on. */
INLINE int sees_from(const Lanes *lanes, int first) { return first < lanes->highest && first + KEYS > lanes->lowest; }

/* Write out the weights of the parts' lanes, which saw the keys lowest … highest − 1: if that was one tile, they are in it still. */
static void show_parts(Scratch *scratch, const Call *call, const Sequence *sequence, Cut cut, int64_t key_head, int64_t start, int parts,
                       int lowest, int highest)
{
    const Map *map = call->maps + (sequence - call->sequences);
    const int again = highest - lowest > KEYS;
    for (int first = lowest; first < highest; first += KEYS) {
        if (again)
            read_keys(&scratch->keys, call, sequence, key_head, first, highest - first < KEYS ? highest - first : KEYS);
        for (int part = 0; part < parts; part++) {
            Lanes *lanes = scratch->lanes + part;
            if (!sees_from(lanes, first))
                continue;
            if (again)
                weigh_keys(lanes, &scratch->keys, call, sequence);
            write_tile(lanes, &scratch->keys, call, map, key_head, start + part * cut.size);
        }
    }
}

/* A task: some parts of one sequence's lanes, for one key head. */
static void attend_parts(Scratch *scratch, const Call *call, const Sequence *sequence, Cut cut, int64_t key_head, int64_t task)
{
    const Map *map = call->maps ? call->maps + (sequence - call->sequences) : NULL;
    const int is_shown = map && map->weights && shows(map, key_head, call->heads / call->key_heads);
    if (!is_shown && !call->output)
        return;
    const int64_t start = task * cut.together * cut.size;
    int parts = 0, lowest = INT32_MAX, highest = 0;
    for (int64_t first = start; parts < cut.together && first < cut.lanes; first += cut.size, parts++) {
        Lanes *lanes = scratch->lanes + parts;
        begin(lanes, call, sequence, key_head, first, (int)(cut.lanes - first < cut.size ? cut.lanes - first : cut.size));
        lowest = lanes->lowest < lowest ? lanes->lowest : lowest;
        highest = lanes->highest > highest ? lanes->highest : highest;
    }
    for (int first = lowest; first < highest; first += KEYS) {
        read_keys(&scratch->keys, call, sequence, key_head, first, highest - first < KEYS ? highest - first : KEYS);
        for (int part = 0; part < parts; part++)
            if (sees_from(scratch->lanes + part, first))
                see_keys(scratch->lanes + part, &scratch->keys, call, sequence);
    }
    for (int part = 0; part < parts && call->output; part++)
        finish(scratch->lanes + part, call, sequence, key_head, start + part * cut.size);
    if (is_shown)
        show_parts(scratch, call, sequence, cut, key_head, start, parts, lowest, highest);
}

void kqv_attend(const Call *call)
{
    static _Thread_local Scratch scratch __attribute__((aligned(64)));
    int64_t together = PARTS, tasks = count_tasks(call, together);
    while (together > 1 && tasks < 4 * omp_get_max_threads())
        tasks = count_tasks(call, together /= 2);
#pragma omp parallel for schedule(dynamic, 1) if (tasks > 1)
    for (int64_t task = 0; task < tasks; task++) {
        const Sequence *sequence = call->sequences;
        int64_t rest = tasks - 1 - task; /* under a causal mask the last queries have most to do, and go first */
        Cut own = cut(call, sequence, together);
        for (; rest >= own.tasks * call->key_heads; own = cut(call, ++sequence, together))
            rest -= own.tasks * call->key_heads;
        attend_parts(&scratch, call, sequence, own, rest / own.tasks, rest % own.tasks);
    }
}
