#include "tools/command_words.h"

namespace inlay::tools {

SplitWords split_command(const std::vector<std::string> &words) {
  SplitWords split;
  std::size_t i = 0;
  for (; i < words.size(); ++i) {
    const std::string &word = words[i];
    if (word == "--") {
      ++i;
      break;
    }
    if (word.empty() || word[0] != '-') break;
    split.own.push_back(word);
    bool takes_value = word == "--config" || word == "--config-owner" || word == "--argv0";
    if (takes_value && i + 1 < words.size() && words[i + 1] != "--") {
      split.own.push_back(words[++i]);
    }
  }
  for (; i < words.size(); ++i) split.command.push_back(words[i]);
  return split;
}

std::vector<std::string> &command_words() {
  static std::vector<std::string> words;
  return words;
}

}  // namespace inlay::tools
