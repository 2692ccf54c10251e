// Token buckets: so many a second, more at once when there was quiet before. By the monotonic
// clock, which nobody sets.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace inlay::identity::rpc {

template <typename Key>
class RateLimit {
 public:
  // `per_second` and `at_once` are at least 1.
  RateLimit(std::uint32_t per_second, std::uint32_t at_once)
      : per_second_(per_second), at_once_(at_once) {}

  // False: this one has had enough. Any thread.
  bool take(const Key &key, std::int64_t now_ns) {
    std::lock_guard lock(mutex_);
    if (buckets_.size() >= kMostBuckets && !buckets_.contains(key)) drop_full(now_ns);
    Bucket &bucket = buckets_.try_emplace(key, Bucket{full(), now_ns}).first->second;
    fill(bucket, now_ns);
    if (bucket.tokens < kToken) return false;
    bucket.tokens -= kToken;
    return true;
  }

 private:
  static constexpr std::int64_t kToken = 1'000'000'000;  // one token in ns * tokens/s
  static constexpr std::size_t kMostBuckets = 16384;
  struct Bucket {
    std::int64_t tokens = 0;  // in parts of kToken
    std::int64_t at_ns = 0;
  };

  std::int64_t full() const { return std::int64_t{at_once_} * kToken; }
  void fill(Bucket &bucket, std::int64_t now_ns) const {
    // What fills a bucket from empty is the most that counts, lest the product overflow.
    const std::int64_t most_ns = full() / per_second_ + 1;
    const std::int64_t passed = std::clamp<std::int64_t>(now_ns - bucket.at_ns, 0, most_ns);
    bucket.tokens = std::min(full(), bucket.tokens + passed * per_second_);
    bucket.at_ns = now_ns;
  }
  // A full bucket is as good as none. When everybody is busy all are forgotten: a bound on memory
  // is worth more than exact counting.
  void drop_full(std::int64_t now_ns) {
    for (auto at = buckets_.begin(); at != buckets_.end();) {
      fill(at->second, now_ns);
      at = at->second.tokens == full() ? buckets_.erase(at) : std::next(at);
    }
    if (buckets_.size() >= kMostBuckets) buckets_.clear();
  }

  const std::uint32_t per_second_, at_once_;
  std::mutex mutex_;
  std::map<Key, Bucket> buckets_;
};

}  // namespace inlay::identity::rpc
