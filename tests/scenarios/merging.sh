#!/usr/bin/env bash
# A researcher who merges: clear merges, conflicts by hand and by method, an octopus, a rebase, a recipe for many models,
# a merge that is taken back, and an answer to "what did merging do?".
. "$(dirname "$0")/begin.sh"
set -x

git theta install
git init -q merging && cd merging
git theta track '*.safetensors'
cp "$MODEL" model.safetensors
git add . && git commit -q -m 'the base'
git tag base

# Skills, each on its branch, each in its layers
for layer in 0 1 2; do
  git switch -q -c "skill-$layer" base
  train "$layer" 0.002 model.safetensors model.safetensors "$layer"
  git commit -q -a -m "skill $layer"
done

# Clear merges, one by one; an octopus of one file is beyond Git, which asks no driver there
git switch -q main
git merge -q -m 'two skills' skill-0
git merge -q -m 'and another' skill-1
git switch -q -c octopus base
refused git merge -q -m 'three at once' skill-0 skill-1 skill-2
clean
git merge -q skill-0
git merge -q -m 'then one by one' skill-1
git merge -q -m 'and the third' skill-2
git theta diff --name-status base | wc -l
git theta log -n 3 model.safetensors | grep -v '^  ' || true

# The same layer twice: a conflict, decided by hand
git switch -q -c rival base
train 77 0.002 model.safetensors model.safetensors 1
git commit -q -a -m 'a rival of skill 1'
git switch -q main
refused git merge rival
git theta status
git theta mergetool --list || [ $? -eq 1 ]
git theta mergetool --theirs '*.bias' --method 'slerp t=0.3' '*.weight'
git commit -q -m 'a bit of the rival'
git log -1 --format=%B
clean

# By method, for every merge to come
git config theta.merge.method 'ties density=0.5'
for round in $(seq "$ROUNDS"); do
  git switch -q -c "again-$round" base
  train "10$round" 0.003 model.safetensors model.safetensors 0 1 2
  git commit -q -a -m "again $round"
  git switch -q main
  git merge -q -m "with again $round" "again-$round"
done
git theta log -n 3 model.safetensors | head -n 4

# A merge that did no good, taken back; and a rebase
git reset -q --hard HEAD~1
git switch -q -c late skill-2
git rebase -q main
git switch -q main
git merge -q --ff-only late
git revert --no-edit HEAD >/dev/null
clean

# What did it do?
git theta diff base HEAD | head -n 8
git theta diff --html ../report.html base HEAD
git theta diff --json base HEAD >../report.json
python3 -c 'import json; print(json.load(open("../report.json"))["schema"])'
git theta blame model.safetensors | head -n 12

# Many models by a recipe of mergekit's
cd ..
for name in skill-0 skill-1 skill-2; do git -C merging theta cat "$name:model.safetensors" >"$name.safetensors"; done
cp "$MODEL" base.safetensors
cat >recipe.yaml <<'END'
merge_method: dare_ties
base_model: base.safetensors
models:
- model: skill-0.safetensors
  parameters: {weight: 0.5, density: 0.6}
- model: skill-1.safetensors
  parameters: {weight: 0.5, density: 0.6}
- model: skill-2.safetensors
  parameters: {weight: 0.3, density: 0.6}
dtype: float32
END
git theta merge-models recipe.yaml --output merged.safetensors --seed 1
git theta merge-models recipe.yaml --output merged-again.safetensors --seed 1
same merged.safetensors merged-again.safetensors
git theta diff --no-index base.safetensors merged.safetensors | head -n 4
git theta merge-file --method average --output mean.safetensors skill-0.safetensors base.safetensors skill-1.safetensors
refused git theta merge-file --method averge --output x.safetensors skill-0.safetensors base.safetensors skill-1.safetensors
