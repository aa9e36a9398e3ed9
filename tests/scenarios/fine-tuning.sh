#!/usr/bin/env bash
# A fine-tuning project, from the first commit to the paper: experiments on branches, a look at what they did, going
# back, a stash at the wrong moment, a release, a colleague's laptop, a mistake and its repair.
. "$(dirname "$0")/begin.sh"
set -x

git theta install
git init -q project && cd project
git theta track '*.safetensors'
cp "$MODEL" model.safetensors
echo '# Fine-tuning' >README
git add . && git commit -q -m 'the released model'
git tag released
git theta status
git theta ls-files

# Experiments
for round in $(seq "$ROUNDS"); do
  git switch -q -c "try-$round" released
  train "$round" 0.00$round model.safetensors model.safetensors 4 5
  git commit -q -a -m "try $round: layers 4 and 5"
  git theta diff --joined released HEAD | head -n 4
done
git branch --list
git theta du | head -n 6

# The first was best; train on from there
git switch -q -c final try-1
train 90 0.002 model.safetensors model.safetensors 5
git diff --stat
git commit -q -a -m 'a second stage'
git theta log -n 2 model.safetensors
git theta blame model.safetensors | tail -n 3

# In the middle of something else
train 91 0.01 model.safetensors model.safetensors 0
git stash -q
clean
git switch -q --detach released
same model.safetensors "$MODEL"
git switch -q final
git stash pop -q
git status --short
git restore model.safetensors
clean

# Which of the commits broke it? The one in which layer 5 changed.
git bisect start final released
git bisect run sh -c '! git theta diff --name-status released | grep -q "layer.5"'
git bisect reset

# Share it
git config --file .thetaconfig theta.url ../weights
git add . && git commit -q -m 'say where the weights are'
git init -q --bare ../host.git
git remote add origin ../host.git
git push -q -u origin final --tags
git theta status
git theta doctor

# A colleague, who has not installed anything at first
cd ..
mv "$HOME/.gitconfig" "$HOME/.gitconfig.away"
git -c init.defaultBranch=main clone -q -b final host.git colleague
head -n 3 colleague/model.safetensors
mv "$HOME/.gitconfig.away" "$HOME/.gitconfig"
cd colleague
git theta pull
same model.safetensors ../project/model.safetensors
train 92 0.001 model.safetensors model.safetensors 3
git commit -q -a -m 'layer 3, too'
git push -q
cd ../project
git pull -q
same model.safetensors ../colleague/model.safetensors

# A mistake: a NaN, found before it is pushed
python3 - <<'END'
from safetensors.numpy import load_file, save_file
tensors = load_file("model.safetensors")
tensors["pooler.dense.bias"][:] = float("nan")
save_file(tensors, "model.safetensors", metadata={"format": "pt"})
END
git add .
refused git theta check --base HEAD
git restore --staged --worktree model.safetensors
git theta check --base released

# A release, and what is in it
git tag -a -m 'version 1' v1
git push -q origin v1
git archive --format=tar v1 | tar -x -O model.safetensors >../released.safetensors
same ../released.safetensors model.safetensors
git theta checkout --to ../pooler.safetensors --tensors 'pooler.*' v1:model.safetensors
git theta cat v1:model.safetensors >../again.safetensors
same ../again.safetensors model.safetensors

# Experiments that came to nothing
git branch -q -D $(git branch --list 'try-*' --format='%(refname:short)')
git gc -q
git fsck
git theta fsck
clean
