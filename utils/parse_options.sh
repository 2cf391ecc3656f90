# shellcheck shell=bash
# Options of a script from its settings block: every `name=default  # comment` line between the lines `# Settings` and
# `# End of settings` can be given as --name VALUE (or --name=VALUE; dashes stand for underscores). Source it, then:
#   parse_options run.sh "$@"    checks and applies; --help prints the block; a usage error leaves with status 2
#   apply_options                applies again, after a recipe has set its own values: the command line wins
# A setting whose default is true or false may be given without a value; one that is a whole number takes whole
# numbers; one that ends in _dir, or is `workdir`, `hub_model`, `cut_with`, `transcribe_with`, `transcribe_check` or
# `transcribe_words`, is a place relative to $called_from (set before).

# In ${x//pattern/text} an & of the text is an & (bash 5.2 would put the match there), so that a folder may be called R&D.
shopt -u patsub_replacement 2>/dev/null || true

declare -a given_names=() given_values=() setting_names=()
declare -A setting_kinds=()

settings_block() {
  sed -n '/^# Settings/,/^# End of settings/p' "$1"
}

usage_error() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

# Prints ' (did you mean X?)' for the name nearest to $1 among the others; nothing when none is near.
nearest_name() {
  python3 -I -S -c 'import difflib, sys
for name in difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1):
    print(f" (did you mean {name}?)", end="")' "$@" 2>/dev/null || true
}

read_settings() {
  local line name
  while IFS= read -r line; do
    if [[ $line =~ ^([a-z_]+)= ]]; then
      name=${BASH_REMATCH[1]}
      setting_names+=("$name")
      case ${!name} in
        true | false) setting_kinds[$name]=switch ;;
        '' | *[!0-9]*) setting_kinds[$name]=text ;;
        *) setting_kinds[$name]=number ;;
      esac
      case $name in workdir | hub_model | cut_with | transcribe_with | transcribe_check | transcribe_words | *_dir) setting_kinds[$name]=place ;; esac
    fi
  done < <(settings_block "$1")
}

print_help() {
  local line name default
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"
  echo
  settings_block "$1" | while IFS= read -r line; do
    if [[ $line =~ ^([a-z_]+)=([^#]*[^#[:space:]])?[[:space:]]*(#[[:space:]]*(.*))?$ ]]; then
      name=${BASH_REMATCH[1]} default=${BASH_REMATCH[2]}
      [[ $default != "\$("* ]] || default=${!name} # what the command says
      printf '  --%-20s %s%s\n' "${name//_/-}" "${BASH_REMATCH[4]}" "${default:+ [$default]}"
    elif [[ $line =~ ^#\ +(.*)$ && $line != '# End of settings'* ]]; then
      printf '%s\n' "${BASH_REMATCH[1]}"
    fi
  done
  echo
  echo 'Stages'
  sed -n 's/^# \([0-9] [a-z]\)/  \1/p' "$1"
}

parse_options() {
  local script=$1 word name value known=()
  shift
  read_settings "$script"
  while (($#)); do
    word=$1
    shift
    case $word in
      -h | --help) print_help "$script"; exit 0 ;;
      --?*) ;;
      *) usage_error "unexpected argument '$word'; options are --name value (--help lists them)" ;;
    esac
    name=${word#--}
    name=${name%%=*}
    name=${name//-/_}
    if [[ ! $name =~ ^[a-z_]+$ || -z ${setting_kinds[$name]:-} ]]; then
      known=("${setting_names[@]//_/-}")
      word=--${name//_/-}
      usage_error "unknown option '$word'$(nearest_name "$word" "${known[@]/#/--}"); --help lists them"
    fi
    if [[ $word == *=* ]]; then
      value=${word#*=}
    elif [[ ${setting_kinds[$name]} == switch && ${1:-} != true && ${1:-} != false ]]; then
      value=true
    elif (($#)) && [[ $1 != --* ]]; then
      value=$1
      shift
    else
      usage_error "$word needs a value"
    fi
    check_value "$word" "${setting_kinds[$name]}" "$value"
    [[ ${setting_kinds[$name]} == place && -n $value && $value != /* ]] && value=${called_from:-$PWD}/$value
    given_names+=("$name")
    given_values+=("$value")
  done
  apply_options
}

check_value() {
  case $2 in
    switch) [[ $3 == true || $3 == false ]] || usage_error "${1%%=*} is true or false, not '$3'" ;;
    number) [[ $3 =~ ^[0-9]+$ ]] || usage_error "${1%%=*} needs a whole number, not '$3'" ;;
  esac
}

apply_options() {
  local index
  for index in "${!given_names[@]}"; do
    printf -v "${given_names[index]}" '%s' "${given_values[index]}"
  done
}
