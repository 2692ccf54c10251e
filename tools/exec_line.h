// ExecStart= of a unit (systemd.service(5), "Command lines"): what stays as it was written when
// `inlay run` is put in front of it.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::tools {

struct ExecLine {
  std::string prefix;     // of "-", ":", "+", "!" and "!!"; "@" is argv0's
  std::string path;       // as written, quotes included
  std::string program;    // without them; specifiers as they are
  std::string argv0;      // as written, "" without "@"
  std::string arguments;  // as written, "" or with a space in front
};

// Several, where the value has them apart by ";". The error is one line.
tl::expected<std::vector<ExecLine>, std::string> parse_exec_lines(std::string_view value);

// The value that starts the same by `run`, the words of a command that ends with its options
// ("/usr/bin/inlay run --config unix:///run/inlay/agent.sock").
std::string started_by(const std::vector<std::string> &run, const ExecLine &line);

// A path with the specifiers that depend on the unit's name alone; the error names the first other.
tl::expected<std::string, std::string> with_specifiers(std::string_view text,
                                                       std::string_view unit);

// As one word of a command line, whatever is in it.
std::string quoted_word(std::string_view text);

}  // namespace inlay::tools
