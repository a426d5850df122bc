// The threads of one block as fibers: only one runs at a time, and it runs until it has to wait for others.
//
// A fiber waits at a barrier of its block, or at an operation of its warp until all 32 lanes are there. The first fiber in
// an order that can run runs next. So between two barriers one warp does all its work before the next warp starts. With an
// order and its reverse, any two warps that meet in memory without a barrier between them meet both ways round. If that
// changes a result, the kernel has a race.
//
// Faults end the program with a message: a barrier or an operation that some threads do not reach, and lanes of a warp at
// different operations.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

namespace host {

constexpr int LANES = 32;

[[noreturn]] inline void fail(const char* fault, const char* what) {
  std::fprintf(stderr, "harness: %s: %s\n", fault, what);
  std::exit(1);
}

// The order in which blocks, warps and lanes run, and when copies to shared memory are made: at once, or when they are
// waited for.
struct Order {
  enum Kind { ASCENDING, DESCENDING, SHUFFLED } kind;
  bool late_copies;

  std::vector<int> of(int count, int seed) const {
    std::vector<int> order(count);
    for (int i = 0; i < count; i++) order[i] = kind == DESCENDING ? count - 1 - i : i;
    if (kind == SHUFFLED) std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    return order;
  }
};

struct Index {
  int x;
};

struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  jmp_buf context;
  ucontext_t start;
  std::vector<char> stack = std::vector<char>(256 * 1024);
  bool started = false, done = false;
  Index index{};
  // The bit of its warp's `ready`. Lower bits run first.
  int rank = 0;
  // Which half of the warp's slots the next operation uses. No lane is more than one operation ahead of another.
  int turn = 0;
  std::vector<std::vector<Copy>> groups;
};

struct Warp {
  std::uint32_t ready = 0;
  int arrived = 0;
  const char* operation = nullptr;
  alignas(16) unsigned char in[2][LANES * 64], out[2][LANES * 16];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<int> warp_order;
  jmp_buf scheduler;
  Fiber* now = nullptr;
  Index index{};
  int at_barrier = 0;
  bool late_copies = false;
  const std::function<void()>* kernel = nullptr;
};

inline Block block;

inline Warp& this_warp() { return block.warps[block.now->index.x / LANES]; }
inline int this_lane() { return block.now->index.x % LANES; }

// Lets another fiber run. It is never inlined, so no variable of a caller lives across the jump.
__attribute__((noinline)) inline void give_way() {
  if (!_setjmp(block.now->context)) _longjmp(block.scheduler, 1);
}

inline void wait() {
  this_warp().ready &= ~(1u << block.now->rank);
  give_way();
}

inline void barrier() {
  if (++block.at_barrier < static_cast<int>(block.fibers.size())) return wait();
  block.at_barrier = 0;
  for (Warp& warp : block.warps) {
    if (warp.arrived) fail("a barrier during an operation of a warp", warp.operation);
    warp.ready = ~0u;
  }
  give_way();
}

// An operation of all lanes: each gives an `In` and gets an `Out`. `all` makes all of them.
template <class In, class Out>
inline Out together(const char* operation, const In& mine, void (*all)(const In*, Out*)) {
  static_assert(sizeof(In) <= 64 && sizeof(Out) <= 16, "the slots of a warp");
  Warp& warp = this_warp();
  const int turn = block.now->turn;
  In* in = reinterpret_cast<In*>(warp.in[turn]);
  Out* out = reinterpret_cast<Out*>(warp.out[turn]);
  if (warp.arrived && warp.operation != operation) fail("lanes at different operations", operation);
  warp.operation = operation;
  in[this_lane()] = mine;
  if (++warp.arrived < LANES) {
    wait();
  } else {
    warp.arrived = 0;
    all(in, out);
    warp.ready = ~0u;
    give_way();
  }
  block.now->turn = 1 - turn;
  return out[this_lane()];
}

// What a fiber does.
inline void enter() {
  (*block.kernel)();
  block.now->done = true;
  wait();
}

// Puts a fiber before the start of the kernel.
inline void prepare(Fiber& fiber, int index, int rank) {
  fiber.index.x = index;
  fiber.rank = rank;
  fiber.started = fiber.done = false;
  fiber.turn = 0;
  fiber.groups.assign(1, {});
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = fiber.stack.size();
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
}

// Runs a fiber until it gives way. It is never inlined, for the same reason.
__attribute__((noinline)) inline void resume(Fiber& fiber) {
  block.now = &fiber;
  if (_setjmp(block.scheduler)) return;
  if (fiber.started) _longjmp(fiber.context, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

// Runs the fibers until none can.
inline void run_block() {
  for (;;) {
    auto first = std::find_if(block.warp_order.begin(), block.warp_order.end(), [](int w) { return block.warps[w].ready; });
    if (first == block.warp_order.end()) break;
    const int rank = __builtin_ctz(block.warps[*first].ready);
    const auto of_rank = [&](int lane) { return block.fibers[*first * LANES + lane].rank == rank; };
    int lane = 0;
    while (!of_rank(lane)) lane++;
    resume(block.fibers[*first * LANES + lane]);
  }
  for (const Fiber& fiber : block.fibers) {
    if (!fiber.done) fail("not every thread reaches a barrier or an operation", "after the last of them");
  }
}

// Runs a kernel on `blocks` blocks, one after another. `clear` is called before each.
inline void launch(int blocks, int threads, Order order, const std::function<void()>& clear,
                   const std::function<void()>& kernel) {
  block.fibers.resize(threads);
  block.warps.resize(threads / LANES);
  block.warp_order = order.of(threads / LANES, 1);
  block.late_copies = order.late_copies;
  block.kernel = &kernel;
  const std::vector<int> lanes = order.of(LANES, 2);
  for (int index : order.of(blocks, 3)) {
    block.index.x = index;
    for (Warp& warp : block.warps) warp.ready = ~0u;
    for (int i = 0; i < threads; i++) {
      const auto place = std::find(lanes.begin(), lanes.end(), i % LANES);
      prepare(block.fibers[i], i, static_cast<int>(place - lanes.begin()));
    }
    clear();
    run_block();
  }
}

}  // namespace host
