// The words of a command: options and the places without a name.
#pragma once

#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/audit_log.h"
#include "identity/ca/config.h"

namespace inlay::identity::ca {

// Thrown: a command line nobody can act on.
struct Usage {
  std::string message;
};
// Thrown: what was asked for could not be done.
struct Failure {
  std::string message;
};

class Words {
 public:
  // `places`: how many words without a name there may be. --config and --json are always known.
  Words(const std::vector<std::string> &words, std::size_t from,
        std::initializer_list<std::string_view> with_value,
        std::initializer_list<std::string_view> flags, std::size_t places = 0);
  bool has(const std::string &name) const { return values_.contains(name); }
  std::string one(const std::string &name) const;  // Usage when it is missing
  std::string one_or(const std::string &name, std::string fallback) const;
  std::vector<std::string> all(const std::string &name) const;
  std::string place(std::size_t index, std::string_view what) const;  // Usage when it is missing
  bool json() const { return has("--json"); }

 private:
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> places_;
};

// What the configuration of --config leads to.
struct State {
  Config config;
  Store store;
  Seal seal;
  std::time_t now = 0;
  bool is_new = false;  // it had no keys when it was opened

  // Where a configuration names the wrong place, or a disk is not mounted, a new authority begins
  // that no machine knows: a sentence for whoever did not mean that; "" when it is not new.
  std::string beginning() const;
  // With its keys made and renewed where that is due. Throws Failure.
  Signer signer();
  // What was just done, by whoever runs the command: to the log of the configuration, or to
  // syslog's authpriv where that has none. That it cannot be written is said on standard error.
  void audit(AuditRecord record) const;
};
State open_state(const Words &words);  // throws Failure

// The value, or Failure with the message of the error.
template <typename T>
T value_of(Stored<T> outcome) {
  if (!outcome) throw Failure{std::move(outcome.error().message)};
  if constexpr (!std::is_void_v<T>) return *std::move(outcome);
}

// Columns as wide as what is in them.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Each takes the words from its own name on.
int serve_command(const std::vector<std::string> &words);
int token_command(const std::vector<std::string> &words);
int entry_command(const std::vector<std::string> &words);
int agents_command(const std::vector<std::string> &words);
int revoke_command(const std::vector<std::string> &words);
int rotate_command(const std::vector<std::string> &words);
int bundle_command(const std::vector<std::string> &words);

}  // namespace inlay::identity::ca
