#include "tools/status_text.h"

#include <fmt/format.h>
#include <pwd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "tools/text.h"

namespace inlay::tools {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostRows = 12;  // of a table; --json has all
constexpr std::size_t kMostProblems = 8;

std::string text_of(const Json &object, const char *name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? printable(found->get<std::string>()) : "";
}

long long number_of(const Json &object, const char *name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_integer() ? found->get<long long>() : 0;
}

bool holds(const Json &object, const char *name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

const Json &list_of(const Json &object, const char *name) {
  static const Json empty = Json::array();
  const auto found = object.find(name);
  return found != object.end() && found->is_array() ? *found : empty;
}

const Json &object_of(const Json &object, const char *name) {
  static const Json empty = Json::object();
  const auto found = object.find(name);
  return found != object.end() && found->is_object() ? *found : empty;
}

// "in 42 min" from NAME_in; `otherwise` where there is no such time.
std::string when(const Json &object, const std::string &name, const char *otherwise) {
  const auto found = object.find(name + "_in");
  return found != object.end() && found->is_number_integer() ? span_text(found->get<long long>())
                                                             : otherwise;
}

std::string user_name(long long uid) {
  const passwd *const user = getpwuid(static_cast<uid_t>(uid));
  return user != nullptr ? printable(user->pw_name) : fmt::format("uid {}", uid);
}

// Rows under a heading, each column as wide as its longest cell; the last is not padded.
class Table {
 public:
  explicit Table(std::vector<std::string> heading) { rows_.push_back(std::move(heading)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string text(std::size_t left_out) const {
    std::vector<std::size_t> widths(rows_.front().size());
    for (const auto &row : rows_) {
      for (std::size_t at = 0; at + 1 < row.size(); ++at) {
        widths[at] = std::max(widths[at], row[at].size());
      }
    }
    std::string text;
    for (const auto &row : rows_) {
      std::string line;
      for (std::size_t at = 0; at < row.size(); ++at) {
        line += fmt::format("{:<{}}", row[at], widths[at] + (at + 1 < row.size() ? 2 : 0));
      }
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
    }
    if (left_out > 0) text += fmt::format("and {} more; --json has them\n", left_out);
    return text;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string head(const Json &report) {
  const Json &agent = object_of(report, "agent"), &source = object_of(report, "source");
  const std::string name = text_of(source, "name");
  std::string text = fmt::format("{}: {}\n\n", text_of(report, "machine"),
                                 holds(report, "ready") ? "ready" : "NOT READY");
  text += fmt::format("trust domain  {}\n", text_of(report, "trust_domain"));
  text += fmt::format("source        {}{}\n", name.empty() ? "" : name + ", ",
                      holds(source, "up") ? "up" : "DOWN");
  text +=
      fmt::format("agent         pid {}, {}, {}, inlay {}, started {}\n", number_of(agent, "pid"),
                  user_name(number_of(agent, "uid")), text_of(agent, "socket"),
                  text_of(report, "version"), when(agent, "since", "never"));
  text += fmt::format("clock         {}\n", text_of(report, "time"));
  return text;
}

std::string identities(const Json &report) {
  const Json &list = list_of(report, "identities");
  if (list.empty()) return {};
  Table table({"IDENTITY", "EXPIRES", "RENEWS", "PROCESSES", "FOR"});
  for (std::size_t at = 0; at < std::min(list.size(), kMostRows); ++at) {
    const Json &one = list[at];
    const bool failing = !text_of(one, "error").empty();
    std::string entries;
    for (const Json &entry : list_of(one, "entries")) {
      if (!entry.is_string()) continue;
      entries += (entries.empty() ? "" : "; or ") + printable(entry.get<std::string>());
    }
    table.add({text_of(one, "spiffe_id"),
               holds(one, "ready") ? when(one, "expires", "") : "NO SVID",
               failing ? "FAILS, again " + when(one, "next_attempt", "soon")
                       : when(one, "renews", "by its source"),
               std::to_string(number_of(one, "processes")), entries});
  }
  const auto known = static_cast<std::size_t>(number_of(report, "known_identities"));
  return "\n" + table.text(std::max(known, list.size()) - std::min(list.size(), kMostRows));
}

std::string processes(const Json &report) {
  const Json &list = list_of(report, "processes");
  if (list.empty()) return {};
  Table table({"PROCESS", "USER", "SINCE", "SVID", "PROGRAM", "IDENTITY"});
  for (std::size_t at = 0; at < std::min(list.size(), kMostRows); ++at) {
    const Json &one = list[at];
    table.add({std::to_string(number_of(one, "pid")), user_name(number_of(one, "uid")),
               when(one, "since", ""), holds(one, "has_newest_svid") ? "newest" : "older",
               text_of(one, "executable"), text_of(one, "spiffe_id")});
  }
  const auto attached = static_cast<std::size_t>(number_of(report, "attached_processes"));
  return "\n" + table.text(std::max(attached, list.size()) - std::min(list.size(), kMostRows));
}

std::string authorities(const Json &report) {
  const Json &list = list_of(report, "authorities");
  if (list.empty()) return {};
  Table table({"AUTHORITY OF", "EXPIRES", "NAME"});
  for (std::size_t at = 0; at < std::min(list.size(), kMostRows); ++at) {
    table.add({text_of(list[at], "trust_domain"), when(list[at], "expires", ""),
               text_of(list[at], "subject")});
  }
  return "\n" + table.text(list.size() - std::min(list.size(), kMostRows));
}

std::string problems(const Json &report) {
  const Json &list = list_of(report, "problems");
  if (list.empty()) return "\nnothing is wrong\n";
  std::string text = "\n";
  for (std::size_t at = 0; at < std::min(list.size(), kMostProblems); ++at) {
    text += fmt::format("{}: {}\n", text_of(list[at], "severity"), text_of(list[at], "what"));
    const std::string to_do = text_of(list[at], "do");
    if (!to_do.empty()) text += fmt::format("    {}\n", to_do);
  }
  if (list.size() > kMostProblems) {
    text += fmt::format("and {} more; --json has them\n", list.size() - kMostProblems);
  }
  return text;
}

}  // namespace

std::string span_text(long long seconds) {
  if (seconds == 0) return "now";
  const unsigned long long span = seconds < 0 ? 0ULL - static_cast<unsigned long long>(seconds)
                                              : static_cast<unsigned long long>(seconds);
  struct Unit {
    unsigned long long seconds;
    const char *one, *many;
  };
  // The largest of which there are two or more: "90 min", not "1 h".
  static constexpr Unit kUnits[] = {
      {86400, "day", "days"}, {3600, "h", "h"}, {60, "min", "min"}, {1, "s", "s"}};
  for (const Unit &unit : kUnits) {
    if (span < 2 * unit.seconds && unit.seconds != 1) continue;
    const unsigned long long count = span / unit.seconds;
    const std::string text = fmt::format("{} {}", count, count == 1 ? unit.one : unit.many);
    return seconds < 0 ? text + " ago" : "in " + text;
  }
  return {};
}

tl::expected<Status, std::string> read_status(std::string_view report,
                                              const std::vector<LocalProblem> &local) {
  Json parsed = Json::parse(report, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("ready") || !parsed["ready"].is_boolean()) {
    return tl::unexpected(
        std::string("the agent's answer is no report; is it of another version of inlay?"));
  }
  Json problems_of_all = list_of(parsed, "problems");
  for (const LocalProblem &problem : local) {
    problems_of_all.push_back({{"severity", "warning"},
                               {"spiffe_id", ""},
                               {"what", problem.what},
                               {"do", problem.to_do}});
  }
  parsed["problems"] = std::move(problems_of_all);
  return Status{holds(parsed, "ready"),
                head(parsed) + identities(parsed) + processes(parsed) + authorities(parsed) +
                    problems(parsed),
                parsed.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n"};
}

}  // namespace inlay::tools
