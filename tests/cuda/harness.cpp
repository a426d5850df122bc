// Runs one kernel of backend-candle/src/cuda on the host. Whoever compiles it defines what tile.cuh expects.
//
//   harness attention DIR b h m n factor Q K V              reads q k v           writes output lse
//   harness votes     DIR b h m n factor Q K                reads q k lse scores  writes votes
//   harness strongest DIR b h m n factor Q K kept pruned    reads q k lse kept pruned  writes rows unordered
//
// Q, K and V are three strides each: of batch entries, heads and rows. Files in DIR are plain numbers: 16-bit words, f32 and
// u32. Every kernel runs in several orders of its threads (fibers.hpp), and all must write the same bytes.
//
// Every input ends at the end of a page, and the next page cannot be read. Before each run the results are filled with other
// bytes, and before each block shared memory is filled with NaN. So reading too far or writing too little is found too.

#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>

#include "host.hpp"
// the sources, in the order in which NVRTC gets them
#include "../../backend-candle/src/cuda/tile.cuh"
// kernels
#include "../../backend-candle/src/cuda/attention.cu"
#include "../../backend-candle/src/cuda/strongest.cu"
#include "../../backend-candle/src/cuda/votes.cu"

namespace {

const host::Order ORDERS[] = {
    {host::Order::ASCENDING, false},
    {host::Order::DESCENDING, true},
    {host::Order::SHUFFLED, true},
    {host::Order::ASCENDING, true},
};

// Memory whose end is followed by a page that faults.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes) : bytes_(bytes) {
    const std::size_t page = sysconf(_SC_PAGESIZE), room = (bytes + page - 1) / page * page;
    void* all = mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(static_cast<char*>(all) + room, page, PROT_NONE)) host::fail("memory", "mmap");
    data_ = static_cast<char*>(all) + room - bytes;
  }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  char* begin() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  char* data_;
  std::size_t bytes_;
};

struct Arguments {
  std::string directory;
  std::vector<std::string> words;
  std::size_t next = 0;

  long long number() {
    if (next == words.size()) host::fail("expected more arguments", "see harness.cpp");
    return std::stoll(words[next++]);
  }
  float real() {
    if (next == words.size()) host::fail("expected more arguments", "see harness.cpp");
    return std::stof(words[next++]);
  }
  Strides strides() {
    const long long batch = number(), head = number(), row = number();
    return Strides{batch, head, row};
  }
  Guarded read(const char* name) const {
    std::ifstream file(directory + "/" + name, std::ios::binary);
    if (!file) host::fail("cannot read", name);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    const Guarded memory(bytes.size());
    std::copy(bytes.begin(), bytes.end(), memory.begin());
    return memory;
  }
  void write(const char* name, const std::string& bytes) const {
    std::ofstream file(directory + "/" + name, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file) host::fail("cannot write", name);
  }
};

struct Result {
  const char* name;
  Guarded memory;
  // Whether the caller of the kernel sets it to zero.
  bool zeroed = false;

  std::string bytes() const { return std::string(memory.begin(), memory.size()); }
};

// Runs the kernel in every order and writes its results.
void run(const Arguments& to, int blocks, const std::vector<Result>& results, const std::function<void()>& kernel) {
  std::vector<std::string> expected;
  int fill = 0x11;
  for (const host::Order& order : ORDERS) {
    for (const Result& result : results) std::memset(result.memory.begin(), result.zeroed ? 0 : fill, result.memory.size());
    fill += 0x22;
    host::launch(blocks, THREADS, order, host::spoil_shared_memory, kernel);
    for (std::size_t i = 0; i < results.size(); i++) {
      const std::string bytes = results[i].bytes();
      if (expected.size() == i) expected.push_back(bytes);
      if (expected[i] != bytes) host::fail("another order of threads changes", results[i].name);
    }
  }
  for (std::size_t i = 0; i < results.size(); i++) to.write(results[i].name, expected[i]);
}

int blocks(int count, int rows) { return (count + rows - 1) / rows; }

}  // namespace

int main(int count, char** words) {
  if (count < 8) host::fail("expected a kernel, a directory, sizes and a factor", "see harness.cpp");
  const std::string kernel = words[1];
  Arguments with{words[2], std::vector<std::string>(words + 3, words + count)};
  const int b = with.number(), h = with.number(), m = with.number(), n = with.number();
  const float factor = with.real();
  const Strides q_by = with.strides(), k_by = with.strides();
  const Guarded q = with.read("q"), k = with.read("k");
  const std::size_t f32 = sizeof(float);
  if (kernel == "attention") {
    const Strides v_by = with.strides();
    const Guarded v = with.read("v");
    const Result output{"output", Guarded(sizeof(word) * b * m * h * DIM)}, lse{"lse", Guarded(f32 * b * h * m)};
    run(with, b * h * blocks(m, ATTENTION_ROWS), {output, lse}, [&] {
      attention(q.as<word>(), q_by, k.as<word>(), k_by, v.as<word>(), v_by, output.memory.as<word>(), lse.memory.as<float>(),
                h, m, n, factor);
    });
  } else if (kernel == "votes") {
    const Guarded lse = with.read("lse"), scores = with.read("scores");
    const Result into{"votes", Guarded(f32 * b * h * n)};
    run(with, b * h * blocks(n, VOTES_ROWS), {into}, [&] {
      votes(q.as<word>(), q_by, k.as<word>(), k_by, lse.as<float>(), scores.as<float>(), into.memory.as<float>(), h, m, n,
            factor);
    });
  } else if (kernel == "strongest") {
    const int kept = with.number(), pruned = with.number();
    const Guarded lse = with.read("lse"), kept_list = with.read("kept"), pruned_list = with.read("pruned");
    const Result rows{"rows", Guarded(sizeof(unsigned) * b * pruned)}, unordered{"unordered", Guarded(4), true};
    run(with, b * blocks(pruned, STRONGEST_ROWS), {rows, unordered}, [&] {
      strongest(q.as<word>(), q_by, k.as<word>(), k_by, lse.as<float>(), kept_list.as<unsigned>(), pruned_list.as<unsigned>(),
                rows.memory.as<unsigned>(), unordered.memory.as<unsigned>(), h, m, kept, pruned, factor);
    });
  } else {
    host::fail("expected attention, votes or strongest", kernel.c_str());
  }
}
