/* What lies between two attentions of a stack, for a whole packed batch in one call: from what the heads of one layer give to what those
   of the next one ask, or to the last hidden states.

   The same numbers as kqv/transformer.py, in float32. A block of tokens goes through all of it while it is in the cache, so that what
   lies between, the inner numbers of the feed-forward above all, is never there for all tokens at once. Many tokens are shared among
   threads by blocks, and nobody waits; of few, all threads work on the one block, each on its panels of every matrix. */

#include <omp.h>
#include <stdlib.h>

#include "panels.h"

enum { TOKENS = 96, WORTH_A_BLOCK = 48, WORTH_SHARING = 1 << 20 }; /* the last in products of numbers */

typedef struct {
    Norm attention_norm, feed_forward_norm;
    const float *query_norm, *key_norm; /* [head width]; or NULL */
    Panels in, out, up, times, down;    /* `times` where the activation is multiplied with a second projection */
} Layer;

typedef struct {
    const Layer *layers;
    Norm final_norm;
    int64_t num_layers;
    Shape shape;
} Stack;

typedef struct {
    const Stack *stack;
    float *x;                     /* [tokens][stride_of(width)]: the residual stream */
    float *asked;                 /* [tokens][stride_of(rows of `in`)]: queries, keys and values */
    const float *given;           /* [tokens][heads][head width]: what the heads gave */
    const float *cosines, *sines; /* [tokens][head width], of which half is read; or NULL for no rotation */
    int64_t tokens;
} Pass;

/* Some neighbouring tokens on their way, and the threads that work on them. */
typedef struct {
    const Stack *stack;
    Many x, asked, given, normed, inner;
    const float *cosines, *sines;
    int64_t count, index, threads;
} Block;

/* Wait for the other threads that work on the block. */
INLINE void meet(const Block *block)
{
    if (block->threads > 1) {
#pragma omp barrier
    }
}

/* y = matrix · x + bias for all tokens, finished in some way. */
static void project(const Block *block, const Panels *matrix, Many x, Many y, Finish finish)
{
    const int64_t panels = panels_of(matrix->rows);
    const int64_t first = panels * block->index / block->threads, last = panels * (block->index + 1) / block->threads;
    multiply_panels(matrix, first, last, x, y, block->count, finish, block->stack->shape.activation);
}

static void normalize_all(const Block *block, Norm norm, Many x, Many y)
{
    meet(block);
    for (int64_t token = block->index; token < block->count; token += block->threads)
        normalize(&block->stack->shape, norm, x.numbers + token * x.stride, y.numbers + token * y.stride);
    meet(block);
}

/* What a sublayer reads. */
static Many enter(const Block *block, Norm norm)
{
    if (!block->stack->shape.norm_first)
        return block->x;
    normalize_all(block, norm, block->x, block->normed);
    return block->normed;
}

/* Take up what a sublayer adds: matrix · x + bias. */
static void leave(const Block *block, const Panels *matrix, Many x, Norm norm)
{
    project(block, matrix, x, block->x, ADD);
    if (!block->stack->shape.norm_first)
        normalize_all(block, norm, block->x, block->x);
}

static void feed_forward(const Block *block, const Layer *layer)
{
    const Many x = enter(block, layer->feed_forward_norm);
    project(block, &layer->up, x, block->inner, ACTIVATE);
    if (block->stack->shape.gated)
        project(block, &layer->times, x, block->inner, MULTIPLY);
    meet(block);
    leave(block, &layer->down, block->inner, layer->feed_forward_norm);
}

/* Norms and rotations of a token's queries or keys. */
static void place_heads(const Block *block, int64_t token, float *heads, int64_t count, const float *norm)
{
    const Shape *shape = &block->stack->shape;
    const int64_t width = shape->head_width;
    for (int64_t head = 0; head < count; head++) {
        if (norm)
            normalize_head(heads + head * width, norm, width, shape->epsilon);
        if (block->cosines)
            turn(heads + head * width, block->cosines + token * width, block->sines + token * width, width);
    }
}

static void ask(const Block *block, const Layer *layer)
{
    const Shape *shape = &block->stack->shape;
    project(block, &layer->in, enter(block, layer->attention_norm), block->asked, KEEP);
    if (!layer->query_norm && !block->cosines)
        return;
    meet(block);
    for (int64_t token = block->index; token < block->count; token += block->threads) {
        float *queries = block->asked.numbers + token * block->asked.stride;
        place_heads(block, token, queries, shape->heads, layer->query_norm);
        place_heads(block, token, queries + shape->heads * shape->head_width, shape->key_heads, layer->key_norm);
    }
}

/* From the heads of layer `index` − 1 to those of layer `index`. */
static void go_between(const Block *block, int64_t index)
{
    const Stack *stack = block->stack;
    if (index > 0) {
        const Layer *layer = stack->layers + index - 1;
        leave(block, &layer->out, block->given, layer->attention_norm);
        feed_forward(block, layer);
    }
    if (index < stack->num_layers)
        ask(block, stack->layers + index);
    else if (stack->final_norm.weight)
        normalize_all(block, stack->final_norm, block->x, block->x);
}

/* How tokens are cut into blocks, of which each thread takes some; or all threads take one after the other. */
typedef struct {
    int64_t size, blocks, threads;
} Cut;

static Cut cut(const Pass *pass)
{
    const int64_t threads = omp_get_max_threads(), each = (pass->tokens + threads - 1) / threads;
    const int together = threads > 1 && each < WORTH_A_BLOCK;
    const int64_t tiles = (each + TOGETHER - 1) / TOGETHER, size = together || tiles * TOGETHER > TOKENS ? TOKENS : tiles * TOGETHER;
    return (Cut){size, (pass->tokens + size - 1) / size, together ? threads : 1};
}

static int64_t room_of_block(const Stack *stack, Cut cut)
{
    return cut.size * (stride_of(stack->shape.width) + stride_of(stack->shape.inner));
}

static Block block_at(const Pass *pass, Cut cut, int64_t index, float *room)
{
    const Stack *stack = pass->stack;
    const Shape *shape = &stack->shape;
    const int64_t first = index * cut.size, left = pass->tokens - first, width = stride_of(shape->width);
    const int64_t asked = stride_of(stack->layers->in.rows), given = shape->heads * shape->head_width, turned = first * shape->head_width;
    return (Block){
        .stack = stack,
        .x = {pass->x + first * width, width},
        .asked = {pass->asked + first * asked, asked},
        .given = {(float *)pass->given + first * given, given},
        .normed = {room, width},
        .inner = {room + cut.size * width, stride_of(shape->inner)},
        .cosines = pass->cosines ? pass->cosines + turned : NULL,
        .sines = pass->sines ? pass->sines + turned : NULL,
        .count = left < cut.size ? left : cut.size,
    };
}

/* How many rows a panel has. */
int kqv_panel(void) { return PANEL; }

/* From the heads of layer `index` − 1, or from the embeddings, to those of layer `index`, or to the last hidden states; 0 where there is
   no memory for it. */
int kqv_between(const Pass *pass, int64_t index)
{
    const Cut own = cut(pass);
    const int64_t each = room_of_block(pass->stack, own), numbers = pass->stack->shape.width * pass->stack->shape.inner;
    float *room = aligned_alloc(64, (own.threads > 1 ? 1 : omp_get_max_threads()) * each * sizeof *room);
    if (!room)
        return 0;
#pragma omp parallel if (pass->tokens * numbers >= WORTH_SHARING)
    if (own.threads > 1) {
        for (int64_t i = 0; i < own.blocks; i++) {
            Block block = block_at(pass, own, i, room);
            block.index = omp_get_thread_num(), block.threads = omp_get_num_threads();
            go_between(&block, index);
            meet(&block);
        }
    } else {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < own.blocks; i++) {
            Block block = block_at(pass, own, i, room + omp_get_thread_num() * each);
            block.index = 0, block.threads = 1;
            go_between(&block, index);
        }
    }
    free(room);
    return 1;
}
