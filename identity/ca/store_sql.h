// What the parts of Store share: running statements, and errors on their way out.
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

#include "identity/ca/store.h"

namespace inlay::identity::ca {

inline StoreError store_error(DatabaseError error) {
  using Kind = DatabaseError::Kind;
  StoreProblem problem = StoreProblem::internal;
  if (error.kind == Kind::busy || error.kind == Kind::unavailable) {
    problem = StoreProblem::unavailable;
  }
  if (error.kind == Kind::corrupt) problem = StoreProblem::corrupt;
  if (error.kind == Kind::constraint) problem = StoreProblem::exists;
  return {problem, std::move(error.message)};
}

inline tl::unexpected<StoreError> store_failure(StoreProblem problem, std::string message) {
  return tl::unexpected(StoreError{problem, std::move(message)});
}

// The statements of one operation. After one has failed, the others do nothing and give no rows:
// the failure is what the transaction ends with.
class Statements {
 public:
  explicit Statements(Connection &connection) : connection_(connection) {}

  Rows operator()(std::string_view sql, const std::vector<Cell> &parameters = {}) {
    if (error_) return {};
    auto rows = connection_.query(sql, parameters);
    if (rows) return *std::move(rows);
    error_ = std::move(rows.error());
    return {};
  }
  void exclude_others() {
    if (error_) return;
    if (auto done = connection_.exclude_others(); !done) error_ = std::move(done.error());
  }
  // Last in its transaction: whoever changes something waits here for others that do.
  void raise_generation() {
    (*this)("UPDATE meta SET number = number + 1 WHERE name = 'generation'");
  }
  bool failed() const { return error_.has_value(); }
  const std::optional<DatabaseError> &error() const { return error_; }

 private:
  Connection &connection_;
  std::optional<DatabaseError> error_;
};

// Runs `work`, which takes Statements and returns a Stored<T>, in one transaction: undone when it
// fails.
template <typename Work>
auto in_transaction(Database &database, const Work &work)
    -> std::invoke_result_t<const Work &, Statements &> {
  using Outcome = std::invoke_result_t<const Work &, Statements &>;
  std::optional<Outcome> outcome;
  auto done = database.transaction([&](Connection &connection) {
    Statements run(connection);
    outcome.emplace(work(run));
    if (run.failed()) return tl::expected<void, DatabaseError>(tl::unexpected(*run.error()));
    if (!*outcome) return tl::expected<void, DatabaseError>(tl::unexpected(DatabaseError{}));
    return tl::expected<void, DatabaseError>();
  });
  if (done) return *std::move(outcome);
  // With no word of the database's own it was `work` that refused.
  if (done.error().message.empty() && outcome && !*outcome) return *std::move(outcome);
  return tl::unexpected(store_error(std::move(done.error())));
}

inline Cell cell(std::string_view text) { return std::string(text); }
inline Cell cell(std::time_t number) { return std::int64_t{number}; }
inline Cell cell(bool flag) { return std::int64_t{flag}; }
inline Cell blob(std::string_view bytes) { return Blob{std::string(bytes)}; }

// Lists of short words without line ends, in one column.
std::string joined(const std::vector<std::string> &words);
std::vector<std::string> split(std::string_view text);

}  // namespace inlay::identity::ca
